//! The doctor names the layer that is broken, who can mend it, and looks at nothing behind it.

mod consortium;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use consilium_certs::{Authority, Identity, Role, server_config};
use consortium::real::{Real, study};
use consortium::{ServerState, silent_address};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Exit code and the JSON of `doctor`.
async fn doctor(config: &Path, proxy: Option<&str>) -> (i32, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_consilium-site"));
    command
        .args(["doctor", "--format", "json", "--config"])
        .arg(config);
    for name in [
        "HTTPS_PROXY",
        "https_proxy",
        "NO_PROXY",
        "no_proxy",
        "ALL_PROXY",
        "all_proxy",
    ] {
        command.env_remove(name);
    }
    if let Some(proxy) = proxy {
        command.env("HTTPS_PROXY", proxy);
    }
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (
        output.status.code().unwrap(),
        serde_json::from_str(&text).unwrap(),
    )
}

/// The layer that is broken, its code, and who can mend it.
fn broken(json: &Value) -> [String; 3] {
    let error = &json["error"];
    [
        &error["details"]["layer"],
        &error["code"],
        &error["details"]["who"],
    ]
    .map(|value| value.as_str().unwrap_or("none").to_owned())
}

/// A site `a` of a study that a server at `address` knows.
fn site(address: &str) -> Real {
    let real = Real::new();
    change(&real, "localhost:7443", address);
    real
}

fn change(real: &Real, from: &str, to: &str) {
    let text = std::fs::read_to_string(real.config("a")).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    std::fs::write(real.config("a"), text.replace(from, to)).unwrap();
}

async fn serving() -> (Real, consortium::Running) {
    let (study, initial) = study();
    let real = Real::new();
    let server = real.consortium.serve(ServerState::of(study, initial)).await;
    change(&real, "localhost:7443", &server.address);
    (real, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_in_order_is_found_in_order_layer_by_layer() {
    let (real, _server) = serving().await;
    let (exit, json) = doctor(&real.config("a"), None).await;
    assert_eq!(exit, 0, "{json}");
    let checks = json["data"]["checks"].as_array().unwrap();
    let layers: Vec<_> = checks
        .iter()
        .map(|check| check["layer"].as_str().unwrap())
        .collect();
    let expected = [
        "program",
        "clock",
        "configuration",
        "policy",
        "cohort",
        "state folder",
        "disk",
        "device",
        "certificate",
        "address",
        "name",
        "connection",
        "whose certificate",
        "server",
    ];
    assert_eq!(layers, expected);
    assert!(
        checks.iter().all(|check| check["found"] == "good"),
        "{json}"
    );
    // Looking changes nothing.
    assert!(!real.folder().join("state-a").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_at_the_site_is_named_before_the_network_is_asked() {
    let told = |real: Real| async move { broken(&doctor(&real.config("a"), None).await.1) };
    let real = site("localhost:1");
    change(&real, "[server]", "[sever]");
    assert_eq!(
        told(real).await,
        ["configuration", "config_unknown_key", "operator"]
    );
    let real = site("localhost:1");
    std::fs::write(real.folder().join("a.policy.toml"), "studies = []").unwrap();
    assert_eq!(
        told(real).await,
        ["policy", "config_missing_key", "protection-officer"]
    );
    let real = site("localhost:1");
    change(&real, "certs/a.pem", "certs/server.pem");
    assert_eq!(
        told(real).await,
        ["certificate", "certificate_wrong_role", "operator"]
    );
    let real = site("localhost:1");
    change(&real, "a/cohort.toml", "nowhere.toml");
    assert_eq!(told(real).await[0], "cohort");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_name_and_a_closed_port_are_told_apart() {
    let real = site("nobody.invalid:7443");
    let (exit, json) = doctor(&real.config("a"), None).await;
    assert_eq!(
        (exit, broken(&json)),
        (4, ["name", "name_unknown", "network"].map(str::to_owned))
    );
    let (_socket, silent) = silent_address();
    let (exit, json) = doctor(&site(&silent).config("a"), None).await;
    assert_eq!(
        (exit, broken(&json)),
        (
            4,
            ["connection", "server_unreachable", "network"].map(str::to_owned)
        )
    );
    assert_eq!(
        json["error"]["details"]["checks"][12]["found"],
        "not-reached"
    );
}

/// A proxy that opens TLS with a certificate of its own: what it is given inside it reads.
async fn intercepting() -> String {
    let folder = tempfile::tempdir().unwrap();
    let inspector =
        Authority::create_with_unencrypted_key(folder.path(), "Clinic TLS inspection").unwrap();
    inspector
        .issue_server(&["localhost".into()], folder.path())
        .unwrap();
    let [pem, key] = ["pem", "key"].map(|kind| folder.path().join(format!("server.{kind}")));
    let identity = Identity::load(&pem, &key, Role::Server).unwrap();
    let tls = server_config(identity, &inspector.certificate()).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            connected(&mut tcp).await;
            let acceptor = acceptor.clone();
            tokio::spawn(async move { drop(acceptor.accept(tcp).await) });
        }
    });
    address
}

/// Reads a `CONNECT` and agrees.
async fn connected(tcp: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(tcp.read_u8().await.unwrap());
    }
    tcp.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .await
        .unwrap();
    String::from_utf8(request).unwrap()
}

/// A proxy that passes bytes on.
async fn passing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let request = connected(&mut tcp).await;
                let server = request.split(' ').nth(1).unwrap().to_owned();
                let mut to = TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut tcp, &mut to).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_opens_tls_is_recognised_and_one_that_passes_it_on_is_gone_through() {
    let (real, _server) = serving().await;
    let (exit, json) = doctor(&real.config("a"), Some(&passing().await)).await;
    assert_eq!(exit, 0, "{json}");
    let way = json["data"]["checks"][9]["seen"].as_str().unwrap();
    assert!(
        way.contains("through the proxy at http://127.0.0.1:"),
        "{way}"
    );

    let (exit, json) = doctor(&real.config("a"), Some(&intercepting().await)).await;
    assert_eq!(
        (exit, broken(&json)),
        (
            4,
            ["whose certificate", "tls_intercepted", "network"].map(str::to_owned)
        )
    );
    let message = json["error"]["message"].as_str().unwrap();
    assert!(message.contains("Clinic TLS inspection"), "{message}");
}
