//! `consilium-server doctor`: what keeps this server from serving, and who can mend it.

use std::path::Path;

use consilium_certs::{Identity, Revocations, Role, date};
use consilium_core::clock::{Clock as _, SystemClock};
use consilium_ops::examination::{self, Examination, Found, Who};
use consilium_ops::{Format, OperatorError, StateLock};

use crate::config::ServerConfig;

/// Checks every layer in the order in which things fail; the server may be running.
///
/// # Errors
/// [`OperatorError`] of the layer that is broken.
pub fn doctor(path: &Path, format: Format) -> Result<(), OperatorError> {
    let mut found = Examination::default();
    let now = SystemClock.now().0 / 1000;
    found.check("program", Who::Operator, || {
        let (version, tls) = (env!("CARGO_PKG_VERSION"), consilium_certs::provider_name());
        Ok(((), format!("consilium-server {version}, TLS: {tls}")))
    });
    found.check("clock", Who::Operator, || examination::clock(now, WRITTEN));
    let config = found.check("configuration", Who::Operator, || {
        let config = ServerConfig::read(path)?;
        let seen = format!("listens on {}", config.listen);
        Ok((config, seen))
    });
    let Some(config) = config else {
        return found.finish(format);
    };
    found.check("study", Who::Operator, || {
        let study = config.read_study()?;
        config.initial_model(&study)?;
        let seen = format!(
            "{}, {} sites, with its initial model",
            study.name,
            study.sites.len()
        );
        Ok(((), seen))
    });
    found.check("state folder", Who::Operator, || {
        examination::writable(&config.state)
    });
    found.check("disk", Who::Operator, || {
        examination::room(&config.state, LEAST_ROOM)
    });
    let files = &config.identity;
    let refused = |error: consilium_certs::CertificateError| {
        OperatorError::configuration(error.code(), error.to_string(), error.hint())
    };
    let peer = found.check("certificate", Who::Operator, || {
        let identity = Identity::load(&files.certificate, &files.key, Role::Server)
            .map_err(|error| refused(error).at(files.certificate.display()))?;
        let peer = identity.peer().clone();
        consilium_certs::server_config(identity, &files.authority)
            .map_err(|error| refused(error).at(files.authority.display()))?;
        let seen = format!("{}, valid to {}", peer.name, date(peer.to));
        Ok((peer, seen))
    });
    if peer.is_some_and(|peer| peer.renewal() <= now.cast_signed()) {
        let error = OperatorError::configuration(
            "certificate_old",
            "two thirds of the certificate's life are over",
            "renew it: `consilium-server certs renew-server`",
        );
        let who = Who::Operator;
        found.push("renewal", Found::Warning { error, who });
    }
    let list = found.check("revocations", Who::Operator, || {
        let path = files.revocations();
        if !path.exists() {
            return Ok((Revocations::default(), "no list: nobody is revoked".into()));
        }
        let list = Revocations::read(&path, &files.authority)
            .map_err(|error| refused(error).at(path.display()))?;
        let seen = format!(
            "{} revoked, next list due {}",
            list.revoked.len(),
            date(list.next)
        );
        Ok((list, seen))
    });
    if list.is_some_and(|list| list.number > 0 && list.is_overdue()) {
        let error = OperatorError::configuration(
            "revocations_overdue",
            "the next list of revoked certificates is overdue; this one stays in force",
            "make it with `consilium-server certs crl`",
        );
        let who = Who::Operator;
        found.push("list", Found::Warning { error, who });
    }
    found.check("port", Who::Operator, || {
        // A server that runs holds both.
        if config.state.is_dir() && StateLock::take(&config.state, "server").is_err() {
            return Ok(((), "a server runs on this state folder".into()));
        }
        std::net::TcpListener::bind(config.listen).map_err(|error| {
            OperatorError::failed(
                "port_failed",
                error.to_string(),
                "stop the other program, or choose another `listen` address",
            )
            .at(config.listen)
        })?;
        Ok(((), format!("{} is free", config.listen)))
    });
    found.finish(format)
}

/// Room for models and updates of a study.
const LEAST_ROOM: u64 = 1 << 30;

/// 2026-01-01T00:00:00Z.
const WRITTEN: u64 = 1_767_225_600;
