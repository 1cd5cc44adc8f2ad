"""The adapter to sandbox/, the channel of development and of source 001."""
