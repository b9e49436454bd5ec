//! Models and groups that a site asks for: only what is shared, and only the bytes that were announced.

use std::collections::BTreeMap;

use consilium_core::vector::values_to_bytes;
use consilium_core::{Digest, ModelVector, SiteId};
use consilium_proto::{
    AwaitAssignmentRequest, DownloadGroupRequest, GroupDigest, MAX_CHUNK_BYTES, Refused,
    digest_to_wire,
};
use consilium_strategies::average;

use crate::consortium::{Consortium, code, initial, study};

#[tokio::test(flavor = "multi_thread")]
async fn a_group_below_the_minimum_of_holders_is_never_served() {
    let consortium = Consortium::new().await;
    let mut site = consortium.site("a").await;
    let study = digest_to_wire(&consortium.study.digest());
    let model = digest_to_wire(&consortium.study.initial_model_sha256);
    let ask = |group: &str, offset, model: &[u8]| DownloadGroupRequest {
        study: study.clone(),
        model: model.to_vec(),
        group: group.into(),
        offset,
    };
    for group in ["stem/m", "stem/n", "head/other", "../../server.sqlite", ""] {
        let refused = site
            .download_group(ask(group, 0, &model))
            .await
            .unwrap_err();
        assert_eq!(code(&refused), "group_not_shared", "{group:?}");
    }
    let unknown = digest_to_wire(&Digest::of(b"no such model"));
    let refused = site
        .download_group(ask("trunk", 0, &unknown))
        .await
        .unwrap_err();
    assert_eq!(code(&refused), "model_unknown");
    assert!(Refused::from_status(&refused).unwrap().retryable);
    let refused = site
        .download_group(ask("trunk", 6, &model))
        .await
        .unwrap_err();
    assert_eq!(code(&refused), "offset_beyond_end");
    let mut stream = site
        .download_group(ask("trunk", 3, &model))
        .await
        .unwrap()
        .into_inner();
    let rest = stream.message().await.unwrap().unwrap();
    assert_eq!(rest.values, values_to_bytes(&[0.0, 0.0]));
    assert!(stream.message().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_changed_on_the_disk_is_neither_announced_nor_sent_as_a_good_one() {
    let mut consortium = Consortium::new().await;
    let study = digest_to_wire(&consortium.study.digest());
    let model = consortium.study.initial_model_sha256;
    let question = AwaitAssignmentRequest {
        study: study.clone(),
        ..AwaitAssignmentRequest::default()
    };
    let download = DownloadGroupRequest {
        study,
        model: digest_to_wire(&model),
        group: "trunk".into(),
        offset: 0,
    };
    let mut site = consortium.site("a").await;
    let announced = site.await_assignment(question.clone()).await.unwrap();
    let announced: Vec<_> = announced.into_inner().groups;
    let digest = |group: &str| {
        let values = &initial().0[&group.parse().unwrap()];
        digest_to_wire(&Digest::of(&values_to_bytes(values)))
    };
    let expected = ["head/t", "trunk"].map(|group| GroupDigest {
        group: group.into(),
        digest: digest(group),
    });
    assert_eq!(announced, expected);
    let blob = consortium.blob(&model);
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes.iter_mut().step_by(4).for_each(|byte| *byte ^= 1);
    std::fs::write(&blob, bytes).unwrap();
    // The digests are those of the model that was announced.
    let mut values = site
        .download_group(download.clone())
        .await
        .unwrap()
        .into_inner();
    assert!(values.message().await.unwrap().is_some());
    let refused = values.message().await.unwrap_err();
    assert_eq!(code(&refused), "store_corrupt");
    // A new process reads the blob, and finds that it is not what its name says.
    consortium.restart(|blobs| blobs).await;
    let mut site = consortium.site("a").await;
    let refused = site.await_assignment(question).await.unwrap_err();
    assert_eq!(code(&refused), "store_corrupt");
    let refused = site.download_group(download).await.unwrap_err();
    assert_eq!(code(&refused), "store_corrupt");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_several_chunks_has_the_bits_of_the_average_in_memory() {
    const LONG: usize = 600_000;
    let mut study = study();
    study.schedule.rounds = 1;
    study.manifest.tensors[0].shape = vec![LONG];
    let values = |seed: usize, scale: f32| -> Vec<f32> {
        let value = |index| ((index * 7919 + seed * 104_729) % 10_007) as f32 - 5003.0;
        (0..LONG).map(|index| value(index) * scale).collect()
    };
    let vector = |head: f32, trunk: Vec<f32>| {
        ModelVector(
            [
                ("head/t".parse().unwrap(), vec![head, -head]),
                ("trunk".parse().unwrap(), trunk),
            ]
            .into(),
        )
    };
    let initial = vector(1.0, values(0, 1e-3));
    study.initial_model_sha256 = initial.sha256();
    let consortium = Consortium::of(study, &initial, |blobs| blobs).await;
    let updates: BTreeMap<SiteId, ModelVector> = ["a", "b", "c"]
        .into_iter()
        .zip(1..)
        .map(|(site, seed)| {
            let update = vector(0.1 * seed as f32, values(seed, 3.3e-5));
            (site.parse().unwrap(), update)
        })
        .collect();
    for (site, update) in &updates {
        let messages = consortium.upload_of(site.as_str(), update);
        assert!(messages.len() > 4, "several chunks");
        consortium.send(site.as_str(), messages).await.unwrap();
    }
    consortium.until(|state| state.end().is_some()).await;
    let expected = average(&consortium.study, &initial, &updates).unwrap();
    let model = consortium.running().consortium().coordination().await.model;
    assert_eq!(model, expected.sha256());
    // From the beginning, and from the middle of a chunk on.
    for offset in [0, 300_001] {
        let request = DownloadGroupRequest {
            study: digest_to_wire(&consortium.study.digest()),
            model: digest_to_wire(&model),
            group: "trunk".into(),
            offset: offset as u64,
        };
        let mut site = consortium.site("b").await;
        let mut chunks = site.download_group(request).await.unwrap().into_inner();
        let (mut bytes, mut count) = (Vec::new(), 0);
        while let Some(chunk) = chunks.message().await.unwrap() {
            assert!(chunk.values.len() <= MAX_CHUNK_BYTES);
            bytes.extend(chunk.values);
            count += 1;
        }
        assert!(count > 1);
        let trunk = &expected.0[&"trunk".parse().unwrap()];
        assert!(bytes == values_to_bytes(&trunk[offset..]), "from {offset}");
    }
}
