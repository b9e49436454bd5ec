//! A full disk, a restart, a second server.

use std::sync::Arc;

use consilium_core::clock::Clock;
use consilium_proto::Refused;
use consilium_server::listen::start_with;

use crate::consortium::{Consortium, code};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_the_update_leaves_nothing_and_takes_it_once_there_is_room() {
    // Room for the initial model of 7 values but not for the update's 7 after a restart with less.
    let mut consortium = Consortium::new().await;
    let before = consortium.blobs();
    consortium.restart(|blobs| blobs.with_room_for(12)).await;
    let refused = consortium.give("a", 0.5).await.unwrap_err();
    assert_eq!(code(&refused), "store_disk_full");
    assert!(Refused::from_status(&refused).unwrap().retryable);
    assert_eq!(consortium.blobs(), before);
    consortium.restart(|blobs| blobs).await;
    assert!(!consortium.give("a", 0.5).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_what_was_stored_and_a_taken_port_or_state_folder_is_named() {
    let mut consortium = Consortium::new().await;
    consortium.give("a", 0.5).await.unwrap();
    let mut config = consortium.config();
    config.listen = consortium.running().address;
    let clock: Arc<dyn Clock> = Arc::clone(&consortium.clock) as _;
    let taken = start_with(&config, clock, |blobs| blobs)
        .await
        .err()
        .unwrap();
    assert_eq!(taken.code, "port_in_use");
    // Another port does not help: two servers would drive the same rounds.
    let clock: Arc<dyn Clock> = Arc::clone(&consortium.clock) as _;
    let second = start_with(&consortium.config(), clock, |blobs| blobs).await;
    let taken = second.err().unwrap();
    assert_eq!(taken.code, "state_in_use");
    assert!(taken.location.unwrap().ends_with("state"));
    consortium.restart(|blobs| blobs).await;
    assert_eq!(consortium.received().await, ["a".parse().unwrap()]);
    for site in ["b", "c"] {
        consortium.give(site, 0.5).await.unwrap();
    }
    consortium
        .until(|state| state.committed_rounds() == 1)
        .await;
}
