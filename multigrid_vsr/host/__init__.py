"""All that BasicSR sees of this plugin: how it is found, and what is changed from outside."""
