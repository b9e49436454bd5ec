//! Agents and the real server over mutual TLS: the log of a whole study, and servers that rewrite it.

mod consortium;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use consilium_certs::{TrustAnchor, fingerprint};
use consilium_core::clock::SystemClock;
use consilium_server::audit::{export, verify};
use consilium_server::config::{IdentityConfig, ServerConfig};
use consilium_server::listen::{Running, start};
use consilium_site::agent::AgentError;
use consilium_site::commands::log::Kept;
use consilium_site::outcome::Outcome;
use consilium_store::server::ServerStore;
use consilium_store::site::SeenHead;
use consilium_transparency::{Head, write_line};
use consortium::{Consortium, SITES, Toy, expected, initial, join_all, site, study};

/// The real server with its state in `state`.
async fn serve(consortium: &Consortium, state: &Path) -> Running {
    let folder = consortium.folder.path();
    let (document, model) = (
        folder.join("study.json"),
        folder.join("initial.safetensors"),
    );
    std::fs::write(&document, serde_json::to_vec(&study()).unwrap()).unwrap();
    std::fs::write(&model, initial().to_safetensors(&study().manifest).unwrap()).unwrap();
    let config = ServerConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        state: state.to_owned(),
        study: document,
        initial_model: model,
        identity: IdentityConfig {
            certificate: consortium.certs().join("server.pem"),
            key: consortium.certs().join("server.key"),
            authority: consortium.authority.certificate(),
            revocations: None,
        },
    };
    start(&config, Arc::new(SystemClock)).await.unwrap()
}

async fn run(consortium: &Consortium, server: &Running, name: &str) -> Result<Outcome, AgentError> {
    let peer = consortium.peer(name, &server.address.to_string());
    consortium.run(name, peer, Toy::make()).await
}

/// Runs these sites until the server has the update of each, then kills them.
async fn deliver(consortium: &Consortium, server: &Running, names: &[&str]) {
    let came = async {
        loop {
            let state = server.consortium().coordination().await;
            if let consilium_rounds::Phase::Training { received, .. } = &state.phase
                && names.iter().all(|name| received.contains_key(&site(name)))
            {
                // What the sites do with the answer.
                tokio::time::sleep(Duration::from_millis(300)).await;
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = came => {}
        ended = join_all(names.iter().map(|name| run(consortium, server, name))) => {
            panic!("ended before: {ended:?}");
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn states(consortium: &Consortium) -> [PathBuf; 2] {
    ["state", "other"].map(|name| consortium.folder.path().join(name))
}

/// The server's export, and what each of these sites has kept.
async fn exports(consortium: &Consortium, state: &Path) -> (String, Vec<String>) {
    let anchor = TrustAnchor::read(&consortium.authority.certificate()).unwrap();
    let store = ServerStore::open(state).await.unwrap();
    let mut server = Vec::new();
    export(&store, &anchor, &mut server).await.unwrap();
    let mut sites = Vec::new();
    for name in SITES {
        let kept = Kept::read(&consortium.store(name).await).await.unwrap();
        let mut bytes = Vec::new();
        for line in kept.lines(&site(name), &study().name) {
            write_line(&mut bytes, &line).unwrap();
        }
        sites.push(String::from_utf8(bytes).unwrap());
    }
    (String::from_utf8(server).unwrap(), sites)
}

fn authority(consortium: &Consortium) -> consilium_core::Digest {
    let anchor = TrustAnchor::read(&consortium.authority.certificate()).unwrap();
    fingerprint(anchor.certificates().next().unwrap())
}

async fn refused_heads(consortium: &Consortium, name: &str) -> Vec<SeenHead> {
    let heads = consortium.store(name).await.heads().await.unwrap();
    let refused = heads.into_iter().filter(|head| head.refused.is_some());
    refused.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_study_that_was_killed_on_both_sides_is_whole_and_witnessed_by_all() {
    let consortium = Consortium::new();
    let [state, _] = states(&consortium);
    let server = serve(&consortium, &state).await;
    deliver(&consortium, &server, &["a", "b"]).await;
    server.stop().await;
    let server = serve(&consortium, &state).await;
    let ended = join_all(SITES.map(|name| run(&consortium, &server, name))).await;
    for outcome in ended {
        let outcome = outcome.unwrap();
        assert_eq!(outcome.final_model_sha256, expected().sha256());
    }
    server.stop().await;
    let (log, sites) = exports(&consortium, &state).await;
    let audited = verify(&log, &sites, &authority(&consortium)).unwrap();
    assert_eq!((audited.rounds, audited.failed_attempts), (3, 0));
    assert_eq!(audited.model, Some(expected().sha256()));
    assert_eq!(audited.clock_went_back, Vec::<u64>::new());
    for (name, site) in &audited.sites {
        assert!(site.accepted, "{name}");
        assert_eq!((site.updates, site.used), (3, 3), "{name}");
        // Also the entry that released the last model.
        assert_eq!(site.witnessed, audited.entries, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_restored_from_a_backup_is_found_by_a_site() {
    let consortium = Consortium::new();
    let [state, backup] = states(&consortium);
    let server = serve(&consortium, &state).await;
    server.stop().await;
    copy(&state, &backup);
    let server = serve(&consortium, &state).await;
    deliver(&consortium, &server, &["a", "b"]).await;
    server.stop().await;
    let server = serve(&consortium, &backup).await;
    let error = run(&consortium, &server, "a").await.unwrap_err();
    assert_eq!(error.code(), "log_rewritten");
    assert_eq!(refused_heads(&consortium, "a").await.len(), 1);
    let coordination = server.consortium().coordination().await;
    assert_eq!(coordination.withdrawn[&site("a")].code, "log_rewritten");
    server.stop().await;
    // What the site has kept shows it to everybody else.
    let (log, sites) = exports(&consortium, &backup).await;
    let found = verify(&log, &sites[..1], &authority(&consortium)).unwrap_err();
    let codes = ["log_split_view", "log_truncated"];
    assert!(codes.contains(&found.code()), "{found}");
    // With the log that it had seen it goes on.
    let server = serve(&consortium, &state).await;
    let ended = join_all(SITES.map(|name| run(&consortium, &server, name))).await;
    for outcome in ended {
        assert_eq!(outcome.unwrap().final_model_sha256, expected().sha256());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_its_log_and_begins_anew_is_found_by_a_site() {
    let consortium = Consortium::new();
    let [state, new] = states(&consortium);
    let server = serve(&consortium, &state).await;
    deliver(&consortium, &server, &["a"]).await;
    server.stop().await;
    let server = serve(&consortium, &new).await;
    let error = run(&consortium, &server, "a").await.unwrap_err();
    assert_eq!(error.code(), "log_rewritten");
    assert!(error.to_string().contains("begins with another entry"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_shows_two_sites_different_logs_is_found_by_the_second() {
    let consortium = Consortium::new();
    let [one, two] = states(&consortium);
    let server = serve(&consortium, &one).await;
    server.stop().await;
    copy(&one, &two);
    let server = serve(&consortium, &one).await;
    deliver(&consortium, &server, &["a"]).await;
    server.stop().await;
    // To b it shows another log, and what a has signed: leaving that out would be noticed in the exports.
    let (from, to) = (
        ServerStore::open(&one).await.unwrap(),
        ServerStore::open(&two).await.unwrap(),
    );
    for signed in from.log_heads().await.unwrap() {
        let head: Head = signed.says().unwrap();
        to.keep_log_head(&head, &signed).await.unwrap();
    }
    for signed in from.witnesses().await.unwrap() {
        let seen: consilium_transparency::Witnessed = signed.says().unwrap();
        let kept = to.keep_witness(&seen.site, &seen.head, &signed).await;
        assert!(kept.unwrap().is_some());
    }
    let server = serve(&consortium, &two).await;
    let error = run(&consortium, &server, "b").await.unwrap_err();
    assert_eq!(error.code(), "log_split_view", "{error}");
    assert!(error.to_string().contains("site a"), "{error}");
    // Two heads with good signatures of one server, that cannot both be true.
    assert_eq!(refused_heads(&consortium, "b").await.len(), 2);
    let coordination = server.consortium().coordination().await;
    assert!(!coordination.withdrawn.contains_key(&site("a")));
    assert_eq!(coordination.withdrawn[&site("b")].code, "log_split_view");
    server.stop().await;
}
