"""The backend `s3`: S3 and compatible servers, with conditional puts."""
