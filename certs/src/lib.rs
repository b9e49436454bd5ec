//! Consortium PKI: the authority, requests for its certificates, revocation, and the TLS settings that both sides use.
//!
//! [`Authority`] signs what a [`SigningRequest`] asks for and lists what is [revoked](Revocations); [`Identity`] is a
//! certificate chain with its key, as a program loads it; [`Peer`] is what a verified certificate says about the other
//! side. [`server_config`], [`client_config`] and [`enrolment_config`] are the only places that choose a TLS version and
//! a cryptographic provider. Nothing here opens a connection.

mod authority;
mod error;
mod files;
mod fingerprint;
mod identity;
mod look;
mod passphrase;
mod peer;
mod pinned;
mod request;
mod revocation;
mod server_certificate;
mod sign;
mod statement;
mod tls;
mod validity;
mod vouched;

pub use authority::{Authority, Issued};
pub use error::CertificateError;
pub use files::{
    certificate_pem, read_certificates, read_secret, replace_public, write_private, write_public,
};
pub use fingerprint::{Fingerprint, InvalidFingerprint};
pub use identity::Identity;
pub use look::{Looked, looking_config, subject_name};
pub use passphrase::Passphrase;
pub use peer::{Peer, Role, date};
pub use pinned::{OtherFingerprint, PinnedRoot, enrolment_config};
pub use request::{REQUEST_BYTES, SigningRequest, make_key};
pub use revocation::Revocations;
pub use sign::{Signature, Signer, verify};
pub use tls::{client_config, provider_name, server_config};
pub use validity::{CERTIFICATE_DAYS, Validity};
pub use vouched::{TrustAnchor, fingerprint};
