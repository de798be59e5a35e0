"""Which forms of filters one relay answers with holes: `audit` asks by controls, `forms` holds what they showed."""
