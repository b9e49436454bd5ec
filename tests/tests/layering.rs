//! Dependencies point downwards only.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Which of our packages each of our packages may depend on (`docs/adr/0001-layout.md`).
fn allowed(package: &str) -> &'static [&'static str] {
    match package {
        "core" | "dp-rs" => &[],
        "rounds" | "strategies" | "transparency" => &["core"],
        "data" | "evaluation" => &["core"],
        "models" => &["core", "dp-rs"],
        "dp-burn" => &["dp-rs"],
        "proto" | "store" => &["core", "rounds", "transparency"],
        "ops" => &["core", "rounds"],
        "certs" => &["core", "ops", "transparency"],
        "server" => &[
            "core",
            "dp-rs",
            "rounds",
            "strategies",
            "transparency",
            "proto",
            "store",
            "ops",
            "certs",
        ],
        "site" => &[
            "core",
            "dp-rs",
            "rounds",
            "strategies",
            "models",
            "data",
            "evaluation",
            "transparency",
            "proto",
            "store",
            "ops",
            "certs",
        ],
        "consilium" => &[
            "core",
            "dp-rs",
            "rounds",
            "strategies",
            "models",
            "data",
            "evaluation",
            "ops",
            "certs",
            "site",
        ],
        "tests" => &[],
        other => panic!("package {other} has no place in the layering yet"),
    }
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_edge_between_our_packages_points_downwards() {
    let metadata = cargo(&[
        "metadata",
        "--no-deps",
        "--offline",
        "--format-version",
        "1",
    ]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let short = |name: &str| name.strip_prefix("consilium-").unwrap_or(name).to_owned();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let from = short(package["name"].as_str().unwrap());
        let targets = edges.entry(from).or_default();
        for dependency in package["dependencies"].as_array().unwrap() {
            let is_ours = !dependency["path"].is_null();
            // Tests may use more: only what is built into programs counts.
            if is_ours && dependency["kind"] != "dev" {
                targets.insert(short(dependency["name"].as_str().unwrap()));
            }
        }
    }
    assert!(
        edges.len() >= 14,
        "cargo metadata lists too few packages: {edges:?}"
    );
    for (from, targets) in &edges {
        for target in targets {
            assert!(
                allowed(from).contains(&target.as_str()),
                "{from} must not depend on {target}"
            );
        }
    }
}

#[test]
fn the_server_never_meets_records_or_burn() {
    let tree = cargo(&[
        "tree",
        "--offline",
        "-p",
        "consilium-server",
        "-e",
        "normal",
        "--prefix",
        "none",
    ]);
    assert!(tree.contains("consilium-strategies"));
    for forbidden in [
        "burn",
        "consilium-data",
        "consilium-models",
        "consilium-site",
    ] {
        assert!(
            !tree.lines().any(|line| line.starts_with(forbidden)),
            "the server contains {forbidden}"
        );
    }
}
