//! Consortium PKI: the authority, certificates of the server and of sites, and the TLS settings that both
//! sides use.
//!
//! [`Authority`] signs; [`Identity`] is a certificate chain with its key, as a program loads it;
//! [`Peer`] is what a verified certificate says about the other side. [`server_config`] and
//! [`client_config`] are the only places that choose a TLS version and a cryptographic provider.

mod authority;
mod error;
mod files;
mod identity;
mod peer;
mod sign;
mod tls;
mod vouched;

pub use authority::{Authority, Validity};
pub use error::CertificateError;
pub use files::{read_certificates, write_private, write_public};
pub use identity::Identity;
pub use peer::{Peer, Role};
pub use sign::{Signature, Signer, verify};
pub use tls::{client_config, server_config};
pub use vouched::{TrustAnchor, fingerprint};
