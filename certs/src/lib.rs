//! Consortium PKI: authority, site and server certificates.
