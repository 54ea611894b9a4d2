"""The agent: serves adapters and scripts as apps, from a configuration file, one supervised child for each app."""
