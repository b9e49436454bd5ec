//! What training and prediction promise, on generated records.

mod sites;

use burn::tensor::Device;
use consilium_core::Seed;
use consilium_models::{Array, Batch, EhpalNet, OptimiserRule, SiteNetwork, Targets};
use sites::{RECORDS, Site, random, sites, spec};

const ADAM: OptimiserRule = OptimiserRule::Adam {
    rate: 0.01,
    weight_decay: 0.0,
};

/// Some records of an array.
fn records(array: &Array, range: std::ops::Range<usize>) -> Array {
    let mut shape = array.shape().to_vec();
    let one: usize = shape[1..].iter().product();
    shape[0] = range.len();
    let values = array.values()[range.start * one..range.end * one].to_vec();
    Array::new(shape, values).unwrap()
}

/// A site with some of its records.
fn part(site: &Site, range: std::ops::Range<usize>) -> Site {
    let targets = match &site.targets {
        Targets::Classes(classes) => Targets::Classes(classes[range.clone()].to_vec()),
        Targets::Labels(labels) => Targets::Labels(labels[range.clone()].to_vec()),
        Targets::Survival { time, event } => Targets::Survival {
            time: time[range.clone()].to_vec(),
            event: event[range.clone()].to_vec(),
        },
        Targets::Hazards { .. } => unreachable!("no site has hazards"),
    };
    Site {
        modality: site.modality.clone(),
        task: site.task.clone(),
        views: [0, 1].map(|view| records(&site.views[view], range.clone())),
        targets,
    }
}

#[test]
fn every_kind_of_site_learns_eight_records_by_heart() {
    for site in sites() {
        let mut trainer = site.trainer(&spec(), ADAM, &Device::flex());
        let views = site.views();
        let batch = site.batch(&views);
        let mut losses = Vec::new();
        for step in 0..240 {
            let loss = trainer.step(&batch, 1.0, &mut random("dropout", step));
            let loss = loss.unwrap();
            losses.push(loss.sum / loss.weight);
        }
        let network = trainer.network().for_inference();
        let predictions = network
            .predict(&site.views(), &site.task, 0, &mut random("none", 0))
            .unwrap();
        match &site.targets {
            Targets::Labels(labels) => {
                for (prediction, &label) in predictions.iter().zip(labels) {
                    assert_eq!(prediction.outputs[0] > 0.5, label == 1.0);
                }
            }
            Targets::Classes(classes) => {
                for (prediction, &class) in predictions.iter().zip(classes) {
                    let outputs = &prediction.outputs;
                    assert!(outputs.iter().all(|&other| other <= outputs[class]));
                }
            }
            Targets::Survival { time, event } => {
                let risk = |record: usize| predictions[record].risk.unwrap();
                for (early, late) in (0..RECORDS).flat_map(|a| (0..RECORDS).map(move |b| (a, b))) {
                    if event[early] && time[early] < time[late] {
                        assert!(risk(early) > risk(late), "{early} dies before {late}");
                    }
                }
            }
            Targets::Hazards { .. } => unreachable!("no site has hazards"),
        }
        assert!(losses[239] < 0.5 * losses[0], "{losses:?}");
    }
}

#[test]
fn separable_losses_add_up_over_batches_and_the_cox_loss_does_not() {
    // Without dropout, whose mask depends on the record's place in its batch.
    let spec = EhpalNet {
        dropout: 0.0,
        ..spec()
    };
    for site in sites() {
        let trainer = site.trainer(&spec, ADAM, &Device::flex());
        let loss = |site: &Site| {
            let views = site.views();
            let (_, loss) = trainer
                .gradient(&site.batch(&views), &mut random("none", 0))
                .unwrap();
            loss
        };
        let whole = loss(&site);
        let (first, second) = (loss(&part(&site, 0..4)), loss(&part(&site, 4..8)));
        let error = ((first.sum + second.sum) / whole.sum - 1.0).abs();
        if spec.tasks[&site.task].is_separable() {
            assert_eq!(first.weight + second.weight, whole.weight);
            assert!(error < 1e-5, "{}: {error}", site.task);
        } else {
            assert!(error > 1e-2, "{}: {error}", site.task);
        }
    }
}

#[test]
fn a_part_starts_with_the_values_of_the_whole_and_a_step_changes_nothing_outside_it() {
    let whole = SiteNetwork::whole(&spec(), Seed(5), "study", &Device::flex()).unwrap();
    let whole = whole.groups();
    for site in sites() {
        let mut trainer = site.trainer(&spec(), ADAM, &Device::flex());
        let before = trainer.network().groups();
        for (group, values) in &before.0 {
            assert_eq!(values, &whole.0[group], "{group}");
        }
        let views = site.views();
        let batch = site.batch(&views);
        trainer
            .step(&batch, 1.0, &mut random("dropout", 0))
            .unwrap();
        let after = trainer.network().groups();
        let own: Vec<_> = after.0.keys().map(ToString::to_string).collect();
        let stem = format!("stem/{}", site.modality);
        let head = format!("head/{}", site.task);
        assert_eq!(own, [head, stem, "trunk".into()]);
        for (group, values) in &after.0 {
            assert_ne!(values, &before.0[group], "{group} was trained");
        }
    }
}

#[test]
fn dropout_passes_give_an_uncertainty_and_the_same_stream_gives_it_again() {
    for site in sites() {
        let network = site.trainer(&spec(), ADAM, &Device::flex());
        let network = network.network().for_inference();
        let predict = |passes, step| {
            network
                .predict(
                    &site.views(),
                    &site.task,
                    passes,
                    &mut random("dropout", step),
                )
                .unwrap()
        };
        let plain = predict(0, 0);
        assert!(plain.iter().all(|record| record.variance == 0.0));
        // Without dropout the stream is not read.
        assert_eq!(plain, predict(0, 1));
        let uncertain = predict(20, 0);
        assert!(uncertain.iter().all(|record| record.variance > 0.0));
        assert_eq!(uncertain, predict(20, 0));
        assert_ne!(uncertain, predict(20, 1));
    }
}

#[test]
fn the_second_view_and_the_absent_embedding_reach_the_loss() {
    let [site, ..] = sites();
    let trainer = site.trainer(&spec(), ADAM, &Device::flex());
    let loss = |b: Option<&Array>, absent: [bool; 4]| {
        let [mut view] = site.views();
        view.b = b;
        let views = [view];
        let batch = Batch {
            absent,
            ..site.batch(&views)
        };
        trainer.gradient(&batch, &mut random("dropout", 0)).unwrap()
    };
    let alone = loss(None, [false; 4]);
    // One view that serves as both is the same as twice the same view.
    assert!((loss(Some(&site.views[0]), [false; 4]).1.sum / alone.1.sum - 1.0).abs() < 1e-6);
    assert_ne!(alone.1, loss(Some(&site.views[1]), [false; 4]).1);
    assert_ne!(alone.1, loss(None, [false, true, true, true]).1);
    // The site's own slot holds its records whatever `absent` says.
    assert_eq!(alone, loss(None, [true, false, false, false]));
}
