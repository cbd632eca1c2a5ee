"""S3 and compatibles: conditional requests make the sidecar key a register that one of many wins."""
