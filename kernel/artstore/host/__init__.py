"""The host: settings, plugins and providers, joined to one running element."""
