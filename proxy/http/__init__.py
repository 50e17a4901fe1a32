"""An HTTP/1.1 server for the data path: httptools on trio, strict, bounded in everything a client can make long."""
