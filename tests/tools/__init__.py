"""Programs that run by themselves and measure or attack the service; README.md beside this says what each is for."""
