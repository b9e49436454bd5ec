//! `consilium-site enroll`: from nothing to a certificate, over the network or by files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use consilium_certs::{
    CertificateError, Fingerprint, Peer, PinnedRoot, date, enrolment_config, replace_public,
};
use consilium_core::SiteId;
use consilium_ops::stop::stopped;
use consilium_ops::{ExitCode, Format, OperatorError, logging, output};
use rustls::pki_types::ServerName;
use serde::Serialize;

use super::{no_runtime, refused_certificate};
use crate::enrolment::Enrolment;
use crate::transport::{Answer, Asked, GrpcServer, ServerAddress};

/// Which way a site enrols.
pub enum Way {
    /// Over the network, from a server whose authority has this fingerprint.
    Server {
        /// `host:port`.
        address: String,
        /// The name in the server's certificate; the host if left out.
        name: Option<String>,
        /// Of the consortium's authority.
        fingerprint: Fingerprint,
    },
    /// The request goes to a file.
    RequestOut(PathBuf),
    /// The certificate comes from a file.
    Install {
        /// The file.
        file: PathBuf,
        /// Of the consortium's authority.
        fingerprint: Fingerprint,
    },
}

#[derive(Serialize)]
struct Enrolled {
    site: String,
    state: &'static str,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_to: Option<String>,
    /// What was written.
    files: Vec<PathBuf>,
}

/// Enrols `site`, with key and certificate in `folder`. May be killed and started again at any moment.
///
/// # Errors
/// [`OperatorError`]: exit 4 when the server is not reachable or not who it should be, exit 5 when the consortium rejects
/// the request, exit 3 for files that are not acceptable.
pub fn enroll(site: &SiteId, folder: &Path, way: Way, format: Format) -> Result<(), OperatorError> {
    logging::start();
    let at_folder = |error: CertificateError| refused_certificate(&error).at(folder.display());
    let enrolment = Enrolment::begin(site, folder).map_err(at_folder)?;
    let key = enrolment.request().fingerprint();
    if let Some(peer) = enrolment.installed().map_err(at_folder)? {
        print(&enrolment, Some(&peer), "enrolled before", format);
        return Ok(());
    }
    let peer = match way {
        Way::RequestOut(file) => {
            let written = replace_public(&file, &enrolment.request().pem());
            written.map_err(|error| refused_certificate(&error).at(file.display()))?;
            let data = Enrolled {
                site: site.to_string(),
                state: "requested",
                key: key.to_string(),
                valid_to: None,
                files: vec![file],
            };
            output::print(format, &data, |data| {
                format!(
                    "request of {site} written to {}\nsend it to the consortium, and tell its operator this key by telephone:\n  {}",
                    data.files[0].display(),
                    key.spoken()
                )
            });
            return Ok(());
        }
        Way::Install { file, fingerprint } => enrolment
            .install_file(&file, fingerprint)
            .map_err(|error| refused_certificate(&error).at(file.display()))?,
        Way::Server {
            address,
            name,
            fingerprint,
        } => {
            let address = server_address(address, name)?;
            eprintln!(
                "{site} asks {} for a certificate; tell the consortium's operator this key by telephone:\n  {}",
                address.address,
                key.spoken()
            );
            over_network(&enrolment, site, address, fingerprint)?
        }
    };
    print(&enrolment, Some(&peer), "enrolled", format);
    Ok(())
}

fn print(enrolment: &Enrolment, peer: Option<&Peer>, state: &'static str, format: Format) {
    let request = enrolment.request();
    let data = Enrolled {
        site: request.site.to_string(),
        state,
        key: request.fingerprint().to_string(),
        valid_to: peer.map(|peer| date(peer.to)),
        files: vec![enrolment.certificate(), enrolment.authority()],
    };
    output::print(format, &data, |data| {
        format!(
            "{} is {state}; its certificate is valid to {} and renewed by the running agent\n  {}\n  {}",
            data.site,
            data.valid_to.as_deref().unwrap_or_default(),
            data.files[0].display(),
            data.files[1].display()
        )
    });
}

fn server_address(address: String, name: Option<String>) -> Result<ServerAddress, OperatorError> {
    let host = address.rsplit_once(':').map_or("", |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = name.unwrap_or_else(|| host.to_owned());
    let name = ServerName::try_from(name.clone()).map_err(|_| {
        OperatorError::new(
            ExitCode::Usage,
            "usage",
            format!("{name:?} is no host name or address"),
            "write --server HOST:PORT, and --name with the name in the server's certificate where it differs",
        )
    })?;
    let proxy = super::through(&address, None)?;
    Ok(ServerAddress {
        address,
        name,
        proxy,
    })
}

fn over_network(
    enrolment: &Enrolment,
    site: &SiteId,
    address: ServerAddress,
    fingerprint: Fingerprint,
) -> Result<Peer, OperatorError> {
    let (tls, root) = enrolment_config(fingerprint).map_err(|error| refused_certificate(&error))?;
    let server = GrpcServer::new(address, tls, None, site.clone(), PATIENCE);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| no_runtime(&error))?;
    runtime.block_on(async {
        let stop = stopped()?;
        tokio::select! {
            answer = answered(enrolment, server, &root) => answer,
            stop = stop => Err(stop.err().unwrap_or_else(|| OperatorError::new(
                ExitCode::Interrupted,
                "stopped",
                "stopped before the consortium has decided",
                "run the same command again: it goes on where it was",
            ))),
        }
    })
}

/// Asks until the consortium has decided.
async fn answered(
    enrolment: &Enrolment,
    mut server: GrpcServer,
    root: &PinnedRoot,
) -> Result<Peer, OperatorError> {
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    loop {
        let answer = server.certificate(enrolment.request(), Asked::First).await;
        server.disconnect();
        match answer {
            Ok(Answer::Certificate(certificate)) => {
                // A server has answered, so it has shown the authority's certificate.
                let root = root.certificate().ok_or(CertificateError::OtherAuthority);
                let installed =
                    root.and_then(|root| enrolment.install(&certificate.as_slice().into(), root));
                return installed.map_err(|error| refused_certificate(&error));
            }
            Ok(Answer::Rejected(reason)) => {
                return Err(OperatorError::new(
                    ExitCode::Refused,
                    "enrolment_rejected",
                    format!("the consortium rejected the request: {reason}"),
                    "ask its operator; a new request needs a new key, in another folder",
                ));
            }
            Ok(Answer::Waiting) => {
                if !std::mem::replace(&mut told, true) {
                    eprintln!(
                        "the request waits for approval; this command may be stopped and run again"
                    );
                }
            }
            Err(error) if error.may_pass() => eprintln!("{error}; asking again"),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long the server may be unreachable.
const PATIENCE: Duration = Duration::from_secs(60);
