//! Studies, rounds and updates in SQLite, blobs in files.
