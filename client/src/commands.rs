//! What `consilium-site` does: one function per command.

mod check;
mod doctor;
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
pub use doctor::doctor;
pub use enroll::{Way, enroll};
pub use run::run;
pub use status::status;

use crate::config::SiteConfig;
use crate::transport::{Proxy, ServerAddress, Witness};

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
        proxy: proxy(config)?,
    })
}

fn proxy(config: &SiteConfig) -> Result<Option<Proxy>, OperatorError> {
    let server = &config.server;
    let credentials = match &server.proxy_credentials {
        None => None,
        Some(path) => {
            let read = consilium_certs::read_secret(path);
            let bytes = read.map_err(|error| refused_certificate(&error).at(path.display()))?;
            let text = String::from_utf8_lossy(&bytes);
            Some(text.lines().next().unwrap_or_default().to_owned())
        }
    };
    let configured = server.proxy.as_deref();
    let configured = configured.map(|proxy| (proxy, credentials.as_deref()));
    through(&server.address, configured)
}

/// The proxy on the way to `address`.
fn through(
    address: &str,
    configured: Option<(&str, Option<&str>)>,
) -> Result<Option<Proxy>, OperatorError> {
    Proxy::for_server(address, configured).map_err(|error| {
        OperatorError::configuration(
            "config_wrong_value",
            error.to_string(),
            "correct server.proxy, or the variable HTTPS_PROXY",
        )
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
