"""From a data source to rows a plugin can read."""
