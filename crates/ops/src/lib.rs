//! Configuration reading, output envelope, exit codes, logs.
