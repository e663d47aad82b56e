//! What two daemons share of the network: TLS, Noise, framing, multicast sockets, shutdown, logs
