//! Every way to rewrite the log, and what the offline check says to it.
//!
//! Whoever rewrites a log may be careless, and is then told which entry it was; or careful with everything that
//! needs no key, and is still found by the signatures.

use consilium_certs::{Authority, Identity, Role, Signer};
use consilium_transparency::Acceptance;

use super::*;

/// Numbers and hashes of the entries, as a careful forger would write them anew.
fn tidied(mut lines: Vec<Line>) -> Vec<Line> {
    let mut next = 0;
    for line in &mut lines {
        if let Line::Entry { index, leaf, entry } = line {
            *index = next;
            *leaf = leaf_hash(entry.as_bytes());
            next += 1;
        }
    }
    lines
}

/// Position of entry `index` among the lines.
fn at(lines: &[Line], wanted: u64) -> usize {
    let found = lines
        .iter()
        .position(|line| matches!(line, Line::Entry { index, .. } if *index == wanted));
    found.unwrap()
}

fn count(lines: &[Line]) -> u64 {
    let entries = lines.iter().filter(|l| matches!(l, Line::Entry { .. }));
    entries.count() as u64
}

/// Sizes of the signed heads.
fn sizes(lines: &[Line]) -> Vec<u64> {
    let heads = lines.iter().filter_map(|line| match line {
        Line::Head { signed } => signed.says::<Head>(),
        _ => None,
    });
    heads.map(|head| head.size).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_entry_is_found() {
    let (consortium, _) = two_rounds().await;
    let lines = lines(&consortium).await;
    for entry in 0..count(&lines) - 1 {
        let mut cut = lines.clone();
        cut.remove(at(&cut, entry));
        let found = refused(&consortium, &cut, &[]);
        assert_eq!(found, ("log_entry_missing", Some(entry)));
        // After the last head but one, only the length is wrong for certain.
        let (code, first) = refused(&consortium, &tidied(cut), &[]);
        assert!(["log_rewritten", "log_truncated"].contains(&code));
        let is_before = first.unwrap() <= entry;
        assert!(is_before || code == "log_truncated", "entry {entry}");
    }
    let mut last = lines.clone();
    last.remove(at(&lines, count(&lines) - 1));
    let found = refused(&consortium, &last, &[]);
    assert_eq!(found, ("log_truncated", Some(count(&last))));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_entry_is_found() {
    let (consortium, _) = two_rounds().await;
    let lines = lines(&consortium).await;
    for wanted in 0..count(&lines) {
        let mut altered = lines.clone();
        let position = at(&altered, wanted);
        if let Line::Entry { entry, .. } = &mut altered[position] {
            // A moment later than it was.
            *entry = entry.replacen("{\"at\":1", "{\"at\":2", 1);
        }
        assert_ne!(altered, lines);
        let found = refused(&consortium, &altered, &[]);
        assert_eq!(found, ("log_entry_altered", Some(wanted)));
        let (code, first) = refused(&consortium, &tidied(altered), &[]);
        assert_eq!(code, "log_rewritten", "entry {wanted}");
        assert!(first.unwrap() <= wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_added_entry_is_found() {
    let (consortium, _) = two_rounds().await;
    let lines = lines(&consortium).await;
    let mut more = lines.clone();
    let position = at(&more, 3);
    more.insert(position, lines[position].clone());
    let found = refused(&consortium, &more, &[]);
    assert_eq!(found, ("log_entry_out_of_place", Some(4)));
    let (code, _) = refused(&consortium, &tidied(more), &[]);
    assert_eq!(code, "log_rewritten");
    // After the last signed head.
    let mut more = lines.clone();
    more.insert(at(&lines, count(&lines) - 1), lines[position].clone());
    let end = tidied({
        let mut end = lines.clone();
        end.insert(at(&lines, count(&lines) - 1) + 1, lines[position].clone());
        end
    });
    let found = refused(&consortium, &end, &[]);
    assert_eq!(found, ("log_entries_unsigned", Some(count(&lines))));
}

#[tokio::test(flavor = "multi_thread")]
async fn reordered_entries_are_found() {
    let (consortium, _) = two_rounds().await;
    let lines = lines(&consortium).await;
    for (one, other) in [(0, 1), (4, 9), (6, 7)] {
        let mut moved = lines.clone();
        let (first, second) = (at(&lines, one), at(&lines, other));
        moved.swap(first, second);
        let found = refused(&consortium, &moved, &[]);
        assert_eq!(found, ("log_entry_out_of_place", Some(one)));
        let (code, bad) = refused(&consortium, &tidied(moved), &[]);
        assert_eq!(code, "log_rewritten");
        assert!(bad.unwrap() <= one);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_log_is_found() {
    let (consortium, mut readers) = two_rounds().await;
    for reader in &mut readers {
        reader.witness(&consortium, &[]).await;
    }
    let lines = lines(&consortium).await;
    let sizes = sizes(&lines);
    let (last, kept) = (sizes[sizes.len() - 1], sizes[2]);
    assert!(kept < last);
    let is_kept = |line: &Line| !matches!(line, Line::Entry { index, .. } if *index >= kept);
    let cut: Vec<_> = lines.iter().filter(|line| is_kept(line)).cloned().collect();
    let truncated = ("log_truncated", Some(kept));
    assert_eq!(refused(&consortium, &cut, &[]), truncated);
    // The signed heads are cut off as well: the counter-signatures are longer.
    let is_short = |signed: &Signed| signed.says::<Head>().unwrap().size <= kept;
    let is_kept = |line: &Line| !matches!(line, Line::Head { signed } if !is_short(signed));
    let cut: Vec<_> = cut.into_iter().filter(is_kept).collect();
    assert_eq!(refused(&consortium, &cut, &[]), truncated);
    // And those: what is left is a good log, shorter than what any of the sites has kept.
    let is_short = |signed: &Signed| signed.says::<Witnessed>().unwrap().head.size <= kept;
    let is_kept = |line: &Line| !matches!(line, Line::Witnessed { signed } if !is_short(signed));
    let cut: Vec<_> = cut.into_iter().filter(is_kept).collect();
    assert_eq!(verified(&consortium, &cut, &[]).unwrap().entries, kept);
    for reader in &readers {
        assert_eq!(refused(&consortium, &cut, &[reader.export()]), truncated);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sites_that_were_shown_different_logs_find_out_when_they_compare() {
    let consortium = Consortium::today(study()).await;
    let mut readers = ["a", "b"].map(Reader::new);
    for reader in &mut readers {
        reader.accept(&consortium).await;
        reader.witness(&consortium, &[]).await;
    }
    // From here on the server keeps two logs, with its own good key.
    let mut split = consortium;
    let states = ["state", "other"].map(|name| split.folder.path().join(name));
    split.running.take().unwrap().stop().await;
    std::fs::create_dir(&states[1]).unwrap();
    for file in ["server.sqlite", "server.sqlite-wal"] {
        let from = states[0].join(file);
        if from.exists() {
            std::fs::copy(&from, states[1].join(file)).unwrap();
        }
    }
    split.start(|blobs| blobs).await;
    split.give("a", 0.5).await.unwrap();
    readers[0].witness(&split, &[]).await;
    let one = lines(&split).await;
    split.running.take().unwrap().stop().await;
    std::fs::rename(&states[0], split.folder.path().join("kept")).unwrap();
    std::fs::rename(&states[1], &states[0]).unwrap();
    split.start(|blobs| blobs).await;
    split.give("b", 0.5).await.unwrap();
    // Its counter-signature is not among those of the other log, so that nothing is seen yet.
    readers[1].witness(&split, &[]).await;
    let other = lines(&split).await;
    let [a, b] = [readers[0].export(), readers[1].export()];
    verified(&split, &one, std::slice::from_ref(&a)).unwrap();
    verified(&split, &other, std::slice::from_ref(&b)).unwrap();
    for (log, site) in [(&one, &b), (&other, &a)] {
        let found = refused(&split, log, std::slice::from_ref(site));
        assert_eq!(found.0, "log_split_view");
    }
    // A site that is shown the one log together with the counter-signature of the other.
    let mut view = readers[1].view(&split, &[]).await;
    view.others = vec![consilium_transparency::Other {
        head: readers[0].heads[1].clone(),
        witnessed: readers[0].witnessed[1].clone(),
        consistency: view.consistency.clone(),
    }];
    view.check_signatures(&anchor(&split)).unwrap();
    let judged = view
        .judge(readers[1].seen().as_ref(), &[], None)
        .unwrap_err();
    assert_eq!(judged.code(), "log_split_view");
    assert!(judged.to_string().contains("site a"), "{judged}");
}

/// Every head signed anew with `signer`, under `certificate`.
fn forged(lines: &[Line], signer: &Signer, certificate: Option<&[u8]>) -> Vec<Line> {
    let mut lines = lines.to_vec();
    for line in &mut lines {
        if let Line::Head { signed } = line {
            let head: Head = signed.says().unwrap();
            *signed = sign(signer, &head);
            if let Some(certificate) = certificate {
                signed.certificate = certificate.to_vec();
            }
        }
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_signed_with_another_key_is_found() {
    let (consortium, _) = two_rounds().await;
    let lines = lines(&consortium).await;
    let site = Signer::of(&consortium.identity("a")).unwrap();
    let certs = consortium.certs();
    let server = consilium_certs::read_certificates(&certs.join("server.pem")).unwrap();
    // Under the server's certificate, and as a site, which may sign no heads.
    for certificate in [Some(server[0].as_ref()), None] {
        let found = refused(&consortium, &forged(&lines, &site, certificate), &[]);
        assert_eq!(found.0, "log_head_forged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_a_server_of_another_consortium_has_signed_is_found() {
    let (consortium, _) = two_rounds().await;
    let lines = lines(&consortium).await;
    let folder = consortium.folder.path().join("stranger");
    let stranger = Authority::create_with_unencrypted_key(&folder, "test").unwrap();
    stranger
        .issue_server(&["localhost".into()], &folder)
        .unwrap();
    let [certificate, key] = ["server.pem", "server.key"].map(|name| folder.join(name));
    let identity = Identity::load(&certificate, &key, Role::Server).unwrap();
    let mut lines = forged(&lines, &Signer::of(&identity).unwrap(), None);
    assert_eq!(refused(&consortium, &lines, &[]).0, "log_head_forged");
    // Also where the export brings the other authority along.
    let other = consilium_certs::read_certificates(&folder.join("authority.pem")).unwrap();
    let certificate = other[0].to_vec();
    lines.insert(1, Line::Authority { certificate });
    assert_eq!(refused(&consortium, &lines, &[]).0, "log_head_forged");
    lines.retain(|line| {
        !matches!(line, Line::Authority { certificate } if fingerprint(certificate) == authority(&consortium))
    });
    assert_eq!(refused(&consortium, &lines, &[]).0, "log_other_authority");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_from_before_the_certificate_of_its_server_is_found() {
    let (consortium, _) = two_rounds().await;
    let mut lines = lines(&consortium).await;
    let certs = consortium.certs();
    let [pem, key] = ["server.pem", "server.key"].map(|name| certs.join(name));
    let signer = Signer::of(&Identity::load(&pem, &key, Role::Server).unwrap()).unwrap();
    for line in &mut lines {
        if let Line::Head { signed } = line {
            let mut head: Head = signed.says().unwrap();
            head.at.0 -= 24 * 60 * 60 * 1000;
            *signed = sign(&signer, &head);
        }
    }
    assert_eq!(refused(&consortium, &lines, &[]).0, "log_head_forged");
}

#[tokio::test(flavor = "multi_thread")]
async fn counter_signatures_that_are_swapped_between_sites_are_found() {
    let (consortium, readers) = two_rounds().await;
    let lines = lines(&consortium).await;
    let [a, b, _] = &readers;
    let [of_a, of_b] = [&a.witnessed[0], &b.witnessed[0]];
    // The signature of the one under the statement of the other.
    let mut swapped = of_a.clone();
    swapped.signature.clone_from(&of_b.signature);
    swapped.certificate.clone_from(&of_b.certificate);
    // A statement in the name of the other.
    let mut said: Witnessed = of_a.says().unwrap();
    said.site = "b".parse().unwrap();
    let pretended = sign(&Signer::of(&consortium.identity("a")).unwrap(), &said);
    for forgery in [swapped, pretended] {
        let mut lines = lines.clone();
        for line in &mut lines {
            if let Line::Witnessed { signed } = line
                && signed == of_a
            {
                signed.clone_from(&forgery);
            }
        }
        assert_eq!(refused(&consortium, &lines, &[]).0, "log_witness_forged");
        // The server does not take it either, from nobody.
        for site in ["a", "b"] {
            let refused = counter_sign(&consortium, site, &forgery).await.unwrap_err();
            assert_eq!(consortium::code(&refused), "log_witness_refused");
        }
    }
    let refused = counter_sign(&consortium, "b", of_a).await.unwrap_err();
    assert_eq!(consortium::code(&refused), "log_witness_refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_a_sites_own_log_that_was_changed_after_it_signed_is_found() {
    let (consortium, mut readers) = two_rounds().await;
    readers[0].own[0].at.0 += 1;
    let found = refused(
        &consortium,
        &lines(&consortium).await,
        &[readers[0].export()],
    );
    assert_eq!(found.0, "log_rewritten");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sum_of_an_update_that_never_came_is_found_in_a_log_that_is_whole() {
    let consortium = Consortium::today(study()).await;
    let log = consortium.running().consortium().log();
    let updates = [("a".parse().unwrap(), Digest::of(b"never came"))];
    log.append(Event::Aggregated {
        round: 1,
        attempt: 1,
        updates: updates.into(),
        model: Digest::of(b"model"),
    })
    .await
    .unwrap();
    let lines = lines(&consortium).await;
    let found = refused(&consortium, &lines, &[]);
    assert_eq!(found, ("log_contradiction", Some(count(&lines) - 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acceptance_that_its_site_has_not_signed_is_refused_and_found_in_the_log() {
    let consortium = Consortium::today(study()).await;
    let log = consortium.running().consortium().log();
    let digest = study().digest();
    let signed_by = |name: &str, site: &str, study: Digest| {
        let said = Acceptance {
            site: site.parse().unwrap(),
            name: "toy".parse().unwrap(),
            study,
            policy: Digest::of(b"policy"),
            at: consilium_core::clock::SystemClock.now(),
        };
        sign(&Signer::of(&consortium.identity(name)).unwrap(), &said)
    };
    let [a, b] = ["a", "b"].map(|name| name.parse().unwrap());
    let good = signed_by("a", "a", digest);
    for _ in 0..2 {
        log.accept(&a, digest, &good).await.unwrap();
    }
    // Of another document, of another site, in another's name, and altered.
    let other = signed_by("a", "a", Digest::of(b"another"));
    let mut altered = good.clone();
    altered.signature[9] ^= 1;
    for (site, signed) in [
        (&a, &other),
        (&b, &good),
        (&a, &signed_by("b", "a", digest)),
        (&a, &altered),
    ] {
        let error = log.accept(site, digest, signed).await.unwrap_err();
        assert_eq!(error.code(), "acceptance_refused");
    }
    let once = lines(&consortium).await;
    let kind = |line: &&Line| match line {
        Line::Entry { entry, .. } => entry.contains("acceptance_signed"),
        _ => false,
    };
    assert_eq!(once.iter().filter(kind).count(), 1);
    // A server that writes one of its own into a log that is whole.
    let forged = Event::AcceptanceSigned {
        site: b,
        acceptance: signed_by("a", "b", digest),
    };
    log.append(forged).await.unwrap();
    let lines = lines(&consortium).await;
    let found = refused(&consortium, &lines, &[]);
    assert_eq!(found, ("log_acceptance_forged", Some(count(&lines) - 1)));
}
