"""What tests share that is neither a fake, an event nor a judgement."""
