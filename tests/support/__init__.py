"""What tests of every floor share: servers, processes, proxies, stores."""
