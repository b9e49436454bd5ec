//! What `consilium-site` does: one function per command.

mod check;
mod enroll;
pub mod log;
pub mod model;
pub mod patients;
pub mod policy;
pub mod privacy;
mod run;
mod status;
pub mod study;

use std::path::Path;

use consilium_certs::{CertificateError, Identity, Role, client_config};
use consilium_data::{Cohort, Refusal};
use consilium_ops::OperatorError;
use rustls::pki_types::ServerName;

pub use check::check;
pub use enroll::{Way, enroll};
pub use run::run;
pub use status::status;

use crate::config::SiteConfig;
use crate::transport::{ServerAddress, Witness};

/// Loads certificate, key and authority; the certificate must be this site's.
fn identity(config: &SiteConfig) -> Result<(rustls::ClientConfig, Witness), OperatorError> {
    let files = &config.identity;
    let identity = Identity::load(&files.certificate, &files.key, Role::Site)
        .map_err(|error| refused_certificate(&error).at(files.certificate.display()))?;
    let holder = identity
        .peer()
        .site()
        .map_err(|error| refused_certificate(&error).at(files.certificate.display()))?;
    if holder != config.site {
        return Err(OperatorError::configuration(
            "certificate_other_site",
            format!(
                "the certificate is of site {holder}, the configuration says {}",
                config.site
            ),
            "correct `site`, or use this site's own certificate",
        )
        .at(files.certificate.display()));
    }
    let witness = Witness::new(&identity, &files.authority)
        .map_err(|error| refused_certificate(&error).at(files.authority.display()))?;
    let tls = client_config(identity, &files.authority)
        .map_err(|error| refused_certificate(&error).at(files.authority.display()))?;
    Ok((tls, witness))
}

fn server_address(config: &SiteConfig) -> Result<ServerAddress, OperatorError> {
    let name = ServerName::try_from(config.server.name.clone()).map_err(|_| {
        OperatorError::configuration(
            "config_wrong_value",
            format!(
                "server.name {:?} is no host name or address",
                config.server.name
            ),
            "write the name that stands in the server's certificate",
        )
    })?;
    Ok(ServerAddress {
        address: config.server.address.clone(),
        name,
    })
}

fn cohort(config: &SiteConfig) -> Result<Cohort, OperatorError> {
    read_cohort(&config.cohort)
}

fn read_cohort(manifest: &Path) -> Result<Cohort, OperatorError> {
    Cohort::read(manifest).map_err(|refusal: Refusal| {
        OperatorError::configuration(
            refusal.code(),
            refusal.to_string(),
            "correct the cohort; `consilium data check` lists every problem with file and line",
        )
        .at(manifest.display())
    })
}

fn refused_certificate(error: &CertificateError) -> OperatorError {
    OperatorError::configuration(error.code(), error.to_string(), error.hint())
}

fn no_runtime(error: &std::io::Error) -> OperatorError {
    OperatorError::failed(
        "threads",
        error.to_string(),
        "let this account start threads",
    )
}
