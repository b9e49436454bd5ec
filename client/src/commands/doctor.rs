//! `consilium-site doctor`: what keeps this site from taking part, and who can mend it.

use std::path::Path;
use std::time::Duration;

use consilium_certs::{Identity, Role, date};
use consilium_core::clock::{Clock as _, SystemClock};
use consilium_ops::examination::{self, Examination, Found, Who};
use consilium_ops::{ExitCode, Format, OperatorError};

use super::{identity, no_runtime, read_cohort, refused_certificate, server_address};
use crate::agent::AgentError;
use crate::config::SiteConfig;
use crate::peer::Peer as _;
use crate::transport::{Credentials, GrpcServer, ServerAddress, WhoAnswers, look};

/// Checks every layer in the order in which things fail.
///
/// # Errors
/// [`OperatorError`] of the layer that is broken.
pub fn doctor(path: &Path, format: Format) -> Result<(), OperatorError> {
    let mut found = Examination::default();
    let now = SystemClock.now().0 / 1000;
    found.check("program", Who::Operator, || {
        let (version, tls) = (env!("CARGO_PKG_VERSION"), consilium_certs::provider_name());
        Ok(((), format!("consilium-site {version}, TLS: {tls}")))
    });
    found.check("clock", Who::Operator, || examination::clock(now, WRITTEN));
    let config = found.check("configuration", Who::Operator, || {
        let config = SiteConfig::read(path)?;
        let seen = format!("site {}, study {}", config.site, config.study);
        Ok((config, seen))
    });
    let config = config.as_ref();
    found.check("policy", Who::ProtectionOfficer, || {
        let policy = configured(config)?.read_policy()?;
        Ok(((), format!("permits {} studies", policy.studies.len())))
    });
    found.check("cohort", Who::Operator, || {
        let cohort = read_cohort(&configured(config)?.cohort)?;
        let (records, patients) = (cohort.records(), cohort.patients());
        Ok(((), format!("{records} records of {patients} patients")))
    });
    found.check("state folder", Who::Operator, || {
        examination::writable(&configured(config)?.state)
    });
    found.check("disk", Who::Operator, || {
        examination::room(&configured(config)?.state, LEAST_ROOM)
    });
    found.check("device", Who::Operator, || {
        let device = configured(config)?.device;
        device.open().map_err(|error| {
            OperatorError::configuration(error.code(), error.to_string(), "set device = \"cpu\"")
        })?;
        Ok(((), device.to_string()))
    });
    let shown = found.check("certificate", Who::Operator, || {
        let config = configured(config)?;
        let shown = identity(config)?;
        let files = &config.identity;
        let peer = Identity::load(&files.certificate, &files.key, Role::Site)
            .map(|identity| identity.peer().clone())
            .map_err(|error| refused_certificate(&error))?;
        Ok((
            (shown, peer.clone()),
            format!("{}, valid to {}", peer.name, date(peer.to)),
        ))
    });
    if let Some((_, peer)) = &shown {
        old(peer.renewal(), now, &mut found);
    }
    let address = found.check("address", Who::Operator, || {
        let address = server_address(configured(config)?)?;
        let way = match &address.proxy {
            Some(proxy) => format!("{} through the proxy at {proxy}", address.address),
            None => format!("{}, no proxy", address.address),
        };
        Ok((address, way))
    });
    if let (Some(address), Some(config), Some(((tls, witness), _))) = (address, config, shown) {
        network(&mut found, config, &address, (tls, witness))?;
    } else {
        for layer in ["name", "connection", "whose certificate", "server"] {
            found.push(layer, Found::NotReached);
        }
    }
    found.finish(format)
}

/// A configuration that was not read is not looked at further.
fn configured(config: Option<&SiteConfig>) -> Result<&SiteConfig, OperatorError> {
    config.ok_or_else(|| OperatorError::failed("not_reached", "the configuration was not read", ""))
}

fn old(renewal: i64, now: u64, found: &mut Examination) {
    if renewal > now.cast_signed() {
        return;
    }
    let error = OperatorError::configuration(
        "certificate_old",
        "two thirds of the certificate's life are over",
        "let the agent run: it asks for the next one, and the operator approves it",
    );
    let who = Who::Consortium;
    found.push("renewal", Found::Warning { error, who });
}

fn network(
    found: &mut Examination,
    config: &SiteConfig,
    address: &ServerAddress,
    (tls, witness): (rustls::ClientConfig, crate::transport::Witness),
) -> Result<(), OperatorError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| no_runtime(&error))?;
    let first = address
        .proxy
        .as_ref()
        .map_or_else(|| address.address.clone(), |proxy| proxy.host_and_port());
    found.check("name", Who::Network, || {
        let known = runtime
            .block_on(async { tokio::time::timeout(LIMIT, tokio::net::lookup_host(&first)).await });
        let unknown = |problem: String| {
            let hint = "correct the name, or let this machine ask a name server that knows it";
            OperatorError::new(ExitCode::Peer, "name_unknown", problem, hint).at(&first)
        };
        match known {
            Ok(Ok(mut addresses)) => match addresses.next() {
                Some(address) => Ok(((), address.ip().to_string())),
                None => Err(unknown("the name has no address".into())),
            },
            Ok(Err(error)) => Err(unknown(error.to_string())),
            Err(_) => Err(unknown("no answer in time".into())),
        }
    });
    let mut arrived = None;
    found.check("connection", Who::Network, || {
        let answer = runtime.block_on(async { tokio::time::timeout(LIMIT, look(address)).await });
        let failed = |problem: String| {
            let hint = "open this one outbound port in the firewall; is the server running?";
            OperatorError::new(ExitCode::Peer, "server_unreachable", problem, hint)
                .at(&address.address)
        };
        match answer {
            Ok(Ok(who)) => {
                arrived = Some(who);
                Ok(((), "the port answers".into()))
            }
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                let hint = "write server.proxy_credentials, or correct them";
                Err(OperatorError::new(
                    ExitCode::Peer,
                    "proxy_credentials",
                    error.to_string(),
                    hint,
                ))
            }
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed("no answer in time".into())),
        }
    });
    found.check("whose certificate", Who::Network, || {
        let authority = consilium_certs::read_certificates(&config.identity.authority)
            .and_then(|certificates| consilium_certs::subject_name(&certificates[0]))
            .map_err(|error| refused_certificate(&error))?;
        match arrived {
            Some(WhoAnswers::Issuer(issuer)) if issuer == authority => {
                Ok(((), format!("issued by {issuer}")))
            }
            Some(WhoAnswers::Issuer(issuer)) => Err(OperatorError::new(
                ExitCode::Peer,
                "tls_intercepted",
                format!(
                    "a certificate arrives that {issuer:?} has issued, not the consortium ({authority:?}): a device on \
                     the way opens TLS, or another server answers"
                ),
                "exempt this address from TLS inspection; the agent talks to nobody else",
            )
            .at(&address.address)),
            _ => Err(OperatorError::new(
                ExitCode::Peer,
                "tls_failed",
                "what answers does not speak TLS 1.3",
                "check server.address and its port; a device on the way may break TLS",
            )
            .at(&address.address)),
        }
    });
    found.check("server", Who::Consortium, || {
        let credentials = Credentials::new(tls, &witness);
        let site = config.site.clone();
        let mut server = GrpcServer::new(address.clone(), credentials, witness, site, LIMIT);
        match runtime.block_on(server.study(&config.study)) {
            Ok(document) => Ok((
                (),
                format!(
                    "knows this site, shows {} bytes of the study",
                    document.len()
                ),
            )),
            Err(error) => Err(AgentError::from(error).into()),
        }
    });
    Ok(())
}

/// Longest wait for each layer of the network.
const LIMIT: Duration = Duration::from_secs(10);

/// Room for the sealed updates and models of a study.
const LEAST_ROOM: u64 = 1 << 30;

/// 2026-01-01T00:00:00Z.
const WRITTEN: u64 = 1_767_225_600;
