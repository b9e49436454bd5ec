//! The head of a site's privacy ledger: kept durably, counter-signed, and never taken back.

use consilium_certs::{Signature, read_certificates, verify};
use consilium_core::Digest;
use consilium_proto::{
    AwaitAssignmentRequest, LedgerHead as WireHead, Receipt as WireReceipt, UploadReply,
    digest_to_wire, head_to_wire, receipt_from_wire,
};
use consilium_rounds::{Countersigned, LedgerHead, Receipt};
use tonic::Status;

use crate::consortium::{Consortium, bytes, code, header};

fn head(length: u64, of: &str) -> LedgerHead {
    LedgerHead {
        length,
        head: Digest::of(of.as_bytes()),
    }
}

/// Sends the update of `site` with this head.
async fn send(
    consortium: &Consortium,
    site: &str,
    ledger: &LedgerHead,
) -> Result<UploadReply, Status> {
    let mut messages = consortium.upload(site, 0.5);
    header(&mut messages).ledger = Some(head_to_wire(ledger));
    let mut client = consortium.site(site).await;
    let reply = client.upload_update(tokio_stream::iter(messages)).await?;
    Ok(reply.into_inner())
}

/// What the server says when the site asks for work.
async fn told(consortium: &Consortium, site: &str) -> Option<WireReceipt> {
    let request = AwaitAssignmentRequest {
        study: digest_to_wire(&consortium.study.digest()),
        ..AwaitAssignmentRequest::default()
    };
    let mut client = consortium.site(site).await;
    let reply = client.await_assignment(request).await.unwrap();
    reply.into_inner().ledger
}

/// What a receipt says, after its signature was checked with the server's certificate.
fn says(consortium: &Consortium, receipt: Option<WireReceipt>) -> Countersigned {
    let receipt = receipt_from_wire(&receipt.unwrap()).unwrap();
    let certificates = read_certificates(&consortium.certs().join("server.pem")).unwrap();
    let signature = Signature {
        scheme: receipt.scheme,
        bytes: receipt.signature.clone(),
    };
    let signed = Receipt::signed_bytes(&receipt.statement);
    verify(&certificates[0], &signed, &signature).unwrap();
    // Signed for this use and no other.
    verify(&certificates[0], &receipt.statement, &signature).unwrap_err();
    receipt.says().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_highest_head_is_signed_kept_over_a_restart_and_never_taken_back() {
    let mut consortium = Consortium::new().await;
    assert_eq!(told(&consortium, "a").await, None);
    let reply = send(&consortium, "a", &head(3, "three")).await.unwrap();
    let said = says(&consortium, reply.ledger);
    assert_eq!(said.ledger, head(3, "three"));
    assert_eq!(said.site, "a".parse().unwrap());
    assert_eq!(said.study, consortium.study.digest());
    // The update is there; its ledger is looked at all the same.
    for behind in [head(2, "two"), head(3, "another three"), head(1, "three")] {
        let refused = send(&consortium, "a", &behind).await.unwrap_err();
        assert_eq!(code(&refused), "privacy_ledger_behind");
    }
    consortium.restart(|blobs| blobs).await;
    let said = says(&consortium, told(&consortium, "a").await);
    assert_eq!(said.ledger, head(3, "three"));
    let refused = send(&consortium, "a", &head(2, "two")).await.unwrap_err();
    assert_eq!(code(&refused), "privacy_ledger_behind");
    for later in [head(3, "three"), head(9, "nine")] {
        let reply = send(&consortium, "a", &later).await.unwrap();
        assert!(reply.already_stored);
        assert_eq!(says(&consortium, reply.ledger).ledger, later);
    }
    // Everybody is told of their own ledger only.
    assert_eq!(told(&consortium, "b").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_kept_although_its_update_is_refused() {
    let consortium = Consortium::new().await;
    let mut messages = consortium.upload("a", 0.5);
    header(&mut messages).ledger = Some(head_to_wire(&head(4, "four")));
    bytes(&mut messages, 1, |bytes| bytes[0] ^= 1);
    let refused = consortium.send("a", messages).await.unwrap_err();
    assert_eq!(code(&refused), "update_digest_mismatch");
    let said = says(&consortium, told(&consortium, "a").await);
    assert_eq!(said.ledger, head(4, "four"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_none_is_refused() {
    let consortium = Consortium::new().await;
    let good = head_to_wire(&head(4, "four"));
    for bad in [
        WireHead {
            length: 0,
            ..good.clone()
        },
        WireHead {
            length: u64::MAX,
            ..good.clone()
        },
        WireHead {
            head: vec![0; 31],
            ..good
        },
    ] {
        let mut messages = consortium.upload("a", 0.5);
        header(&mut messages).ledger = Some(bad);
        let refused = consortium.send("a", messages).await.unwrap_err();
        assert_eq!(code(&refused), "message_malformed");
    }
    assert_eq!(told(&consortium, "a").await, None);
}
