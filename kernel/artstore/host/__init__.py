"""What turns settings and plugins into one running element: settings, plugins, providers, boot."""
