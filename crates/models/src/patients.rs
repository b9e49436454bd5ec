//! Gradients per patient for private training: norms first, then one clipped sum
//! (`differential-privacy.md` sections 3 and 4).
//!
//! A patient's gradient is the gradient of the mean loss over the patient's records in the batch, with both
//! self-paired views of each record. On the CPU it comes from one backward pass by Book-Keeping on the tape;
//! elsewhere from one backward pass per patient.

pub(crate) mod faults;

use burn::module::{Module as _, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use consilium_core::{TaskKey, TensorSpec};
use dp_rs::gradients::UnitGradients;
use rand::Rng;

use crate::kernel::arrange::{pixel_spread, pixel_sum};
use crate::kernel::pointwise::Product;
use crate::loss::loss;
use crate::network::host_values;
use crate::op::books::{Books, Membership, Trained, node_of};
use crate::{Array, Batch, ModelError, NormKind, SiteNetwork, Targets, Task, View};
use faults::{Fault, injected};

/// Which parameters are clipped together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipGroups {
    /// All of them (flat clipping).
    All,
    /// Those of one parameter group: a stem, the trunk, a head; in the order of the network's manifest.
    ParameterGroups,
}

/// The gradients of the patients of one batch.
pub struct PatientGradients {
    engine: Engine,
    units: usize,
    /// The clipping group of every trained tensor, in manifest order.
    group_of: Vec<usize>,
    groups: usize,
}

enum Engine {
    Books(Box<Books>),
    /// One gradient per patient, with the lengths of the tensors.
    Separate(Vec<Vec<f32>>, Vec<usize>),
}

impl SiteNetwork {
    /// The gradients of the patients of `batch`; `patient_of` names the patient of each record by a number
    /// from 0, without gaps. Records of one patient are averaged. Only tensors for which `trained` says so
    /// have a gradient; the others are constants. The mask of the batch weighs records.
    ///
    /// # Errors
    /// [`ModelError::NotPrivate`] for a loss or a layer that couples patients, else as
    /// [`features`](Self::features).
    pub fn patient_gradients(
        &self,
        batch: &Batch<'_>,
        patient_of: &[usize],
        trained: impl Fn(&TensorSpec) -> bool,
        groups: ClipGroups,
        dropout: &mut impl Rng,
    ) -> Result<PatientGradients, ModelError> {
        self.check_private(batch.task)?;
        let members = match injected(Fault::RecordsAsPatients) {
            true => membership(batch, &(0..patient_of.len()).collect::<Vec<_>>())?,
            false => membership(batch, patient_of)?,
        };
        let kept: Vec<bool> = self.tensor_specs().iter().map(trained).collect();
        if kept.contains(&false) {
            let network = self.frozen_but(&kept);
            return network.gradients_of(batch, members, &kept, groups, dropout);
        }
        self.gradients_of(batch, members, &kept, groups, dropout)
    }

    fn gradients_of(
        &self,
        batch: &Batch<'_>,
        members: Membership,
        kept: &[bool],
        groups: ClipGroups,
        dropout: &mut impl Rng,
    ) -> Result<PatientGradients, ModelError> {
        let units = members.units;
        let specs: Vec<&TensorSpec> = self
            .tensor_specs()
            .iter()
            .zip(kept)
            .filter_map(|(spec, kept)| kept.then_some(spec))
            .collect();
        let (group_of, groups) = clip_groups(&specs, groups);
        let lengths = specs.iter().map(|spec| spec.len()).collect();
        let mask = self.weights(batch, &members)?;
        let (flow, features) = self.pass(batch.views, batch.absent)?;
        let dims = features.dims();
        let engine = match flow.into_tape(&features) {
            Some((tape, output)) => {
                let dropout = self.dropout_mask(dims, dropout).map(host_values);
                let books = self.books(batch, &mask, members, kept, tape, output, dims, dropout)?;
                Engine::Books(Box::new(books))
            }
            None => {
                let all = self.one_by_one(batch, &mask, &members, kept, dropout)?;
                Engine::Separate(all, lengths)
            }
        };
        Ok(PatientGradients {
            engine,
            units,
            group_of,
            groups,
        })
    }

    /// Refuses what has no gradient per patient.
    ///
    /// # Errors
    /// [`ModelError::NotPrivate`], [`ModelError::UnknownTask`].
    pub fn check_private(&self, task: &TaskKey) -> Result<(), ModelError> {
        if !self.task(task)?.is_separable() {
            return Err(ModelError::NotPrivate {
                what: format!("task {task}"),
                remedy: "the Cox partial likelihood compares the patients of a batch, so that no patient has \
                         a loss of their own; use kind = \"hazards\" with cut_points"
                    .into(),
            });
        }
        if self.spec().norm == NormKind::Batch && !injected(Fault::BatchNormUnchecked) {
            let first = self
                .tensor_specs()
                .iter()
                .find(|spec| spec.name.ends_with("moving_mean"));
            let name = first.map_or("BatchNorm", |spec| spec.name.as_str());
            return Err(ModelError::NotPrivate {
                what: name.trim_end_matches(".moving_mean").to_owned(),
                remedy: "BatchNorm mixes the patients of a batch; set norm = \"group\"".into(),
            });
        }
        Ok(())
    }

    /// Weight of each record, or record and label: the given mask over the patient's number of records.
    fn weights(&self, batch: &Batch<'_>, members: &Membership) -> Result<Vec<f32>, ModelError> {
        let per_record = match self.task(batch.task)? {
            Task::Labels { n } => *n,
            _ => 1,
        };
        let mut records = vec![0.0_f32; members.units];
        for &unit in &members.of_record {
            records[unit] += 1.0;
        }
        let share =
            |at: usize| 1.0 / (records[members.of_record[at / per_record]] * per_record as f32);
        let all = members.of_record.len() * per_record;
        Ok(match batch.mask {
            Some(mask) if mask.len() == all => mask
                .iter()
                .enumerate()
                .map(|(at, weight)| weight * share(at))
                .collect(),
            // A mask of another length is refused by the loss.
            Some(mask) => mask.to_vec(),
            None => (0..all).map(share).collect(),
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn books(
        &self,
        batch: &Batch<'_>,
        mask: &[f32],
        members: Membership,
        kept: &[bool],
        tape: crate::op::Tape,
        output: usize,
        dims: [usize; 4],
        dropout: Option<Vec<f32>>,
    ) -> Result<Books, ModelError> {
        let [channels, height, width, records] = dims;
        let pixels = height * width;
        let mut pooled = vec![0.0; channels * records];
        let scale = 1.0 / pixels as f32;
        pixel_sum(
            tape.get(output),
            dropout.as_deref(),
            pixels,
            records,
            scale,
            &mut pooled,
        );
        let (kernel, bias) = self.head(batch.task)?;
        let outputs = kernel.dims()[1];
        let head = [node_of(&kernel), node_of(&bias)];
        let (kernel, bias) = (
            host_values(kernel.inner().transpose()),
            host_values(bias.inner()),
        );
        let shape = Product {
            inputs: channels,
            outputs,
            groups: 1,
            columns: records,
        };
        let logits = shape.forward(&pooled, &kernel, Some(&bias));
        let logits = TensorData::new(logits, [outputs, records]);
        let logits = Tensor::<2>::from_data(logits, &self.device().clone().inner());
        let logits = Tensor::from_inner(logits).require_grad();
        let task = self.task(batch.task)?;
        let (sum, _) = loss(batch.task, task, &logits, batch.targets, Some(mask))?;
        let dlogits = match logits.grad_remove(&mut sum.backward()) {
            Some(gradient) => host_values(gradient),
            None => vec![0.0; outputs * records],
        };
        let dpooled = shape.input_gradient(&dlogits, &kernel);
        let dy = pixel_spread(&dpooled, dropout.as_deref(), pixels, records, scale);
        let mut nodes = Nodes(Vec::new());
        self.parts.visit(&mut nodes);
        let mut trained = Vec::new();
        let mut names = Vec::new();
        for ((spec, node), _) in self
            .tensor_specs()
            .iter()
            .zip(nodes.0)
            .zip(kept)
            .filter(|(_, kept)| **kept)
        {
            let node = node.ok_or_else(|| ModelError::NotPrivate {
                what: spec.name.clone(),
                remedy: "it is not on a device with gradients".into(),
            })?;
            trained.push(Trained {
                node,
                len: spec.len(),
            });
            names.push(&spec.name);
        }
        let place = |node: &Option<u64>| trained.iter().position(|t| Some(t.node) == *node);
        let head = [place(&head[0]), place(&head[1])];
        let mut books = Books::keep(tape, output, dy, members, &trained).map_err(|index| {
            ModelError::NotPrivate {
                what: names[index].clone(),
                remedy: "it is used several times in a way that has no rule for norms per patient"
                    .into(),
            }
        })?;
        books.enter_head(head, pooled, dlogits);
        Ok(books)
    }

    /// One backward pass per patient.
    fn one_by_one(
        &self,
        batch: &Batch<'_>,
        mask: &[f32],
        members: &Membership,
        kept: &[bool],
        dropout: &mut impl Rng,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let task = self.task(batch.task)?;
        let per_record = mask.len() / members.of_record.len();
        let mut all = Vec::with_capacity(members.units);
        for unit in 0..members.units {
            let records: Vec<usize> = (0..members.of_record.len())
                .filter(|&record| members.of_record[record] == unit)
                .collect();
            let arrays: Vec<(Array, Option<Array>)> = batch
                .views
                .iter()
                .map(|view| (view.a.select(&records), view.b.map(|b| b.select(&records))))
                .collect();
            let views: Vec<View<'_>> = batch
                .views
                .iter()
                .zip(&arrays)
                .map(|(view, (a, b))| View {
                    modality: view.modality,
                    a,
                    b: b.as_ref(),
                })
                .collect();
            let targets: Targets = batch.targets.select(task, &records);
            let mask: Vec<f32> = records
                .iter()
                .flat_map(|&record| &mask[record * per_record..(record + 1) * per_record])
                .copied()
                .collect();
            let features = self.features(&views, batch.absent)?;
            let dropout = self.dropout_mask(features.dims(), dropout);
            let logits = self.logits(batch.task, &features, dropout.as_ref())?;
            let (sum, _) = loss(batch.task, task, &logits, &targets, Some(&mask))?;
            all.push(self.collect(sum, |index| kept[index]));
        }
        Ok(all)
    }
}

fn membership(batch: &Batch<'_>, patient_of: &[usize]) -> Result<Membership, ModelError> {
    let records = batch.views.first().map_or(0, |view| view.a.records());
    let units = patient_of.iter().max().map_or(0, |most| most + 1);
    let mut seen = vec![false; units];
    for &unit in patient_of {
        seen[unit] = true;
    }
    if patient_of.len() != records || seen.contains(&false) {
        return Err(ModelError::Target {
            task: batch.task.clone(),
            problem: format!("{records} records need as many patient numbers, from 0 without gaps"),
        });
    }
    Ok(Membership {
        of_record: patient_of.to_vec(),
        units,
    })
}

fn clip_groups(specs: &[&TensorSpec], groups: ClipGroups) -> (Vec<usize>, usize) {
    match groups {
        ClipGroups::All => (vec![0; specs.len()], 1),
        ClipGroups::ParameterGroups => {
            let mut names = Vec::new();
            let group_of = specs
                .iter()
                .map(|spec| {
                    let known = names.iter().position(|name| *name == &spec.group);
                    known.unwrap_or_else(|| {
                        names.push(&spec.group);
                        names.len() - 1
                    })
                })
                .collect();
            (group_of, names.len().max(1))
        }
    }
}

struct Nodes(Vec<Option<u64>>);

impl ModuleVisitor for Nodes {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(node_of(&param.val()));
    }
}

impl UnitGradients for PatientGradients {
    fn units(&self) -> usize {
        self.units
    }

    fn groups(&self) -> usize {
        self.groups
    }

    fn squared_norms(&self) -> Vec<f64> {
        let mut norms = vec![0.0; self.units * self.groups];
        match &self.engine {
            Engine::Books(books) => {
                for (tensor, &group) in self.group_of.iter().enumerate() {
                    for (unit, square) in books.squares(tensor).into_iter().enumerate() {
                        norms[unit * self.groups + group] += square;
                    }
                }
            }
            Engine::Separate(gradients, lengths) => {
                for (unit, gradient) in gradients.iter().enumerate() {
                    let mut rest = gradient.as_slice();
                    for (&length, &group) in lengths.iter().zip(&self.group_of) {
                        let (values, tail) = rest.split_at(length);
                        rest = tail;
                        norms[unit * self.groups + group] += values
                            .iter()
                            .map(|&value| f64::from(value) * f64::from(value))
                            .sum::<f64>();
                    }
                }
            }
        }
        norms
    }

    fn weighted_sum(self, factors: &[f64]) -> Vec<f32> {
        // Toward zero, so that single precision does not carry a norm over the clip.
        let down = |factor: f64| (factor * (1.0 - f64::from(f32::EPSILON))) as f32;
        let by_group: Vec<Vec<f32>> = (0..self.groups)
            .map(|group| {
                let all = factors.iter().skip(group).step_by(self.groups);
                all.map(|&factor| down(factor)).collect()
            })
            .collect();
        match &self.engine {
            Engine::Books(books) => books.weighted_sum(|tensor| &by_group[self.group_of[tensor]]),
            Engine::Separate(gradients, lengths) => {
                let mut sum = vec![0.0; lengths.iter().sum()];
                for (unit, gradient) in gradients.iter().enumerate() {
                    let mut start = 0;
                    for (&length, &group) in lengths.iter().zip(&self.group_of) {
                        let range = start..start + length;
                        start = range.end;
                        let factor = by_group[group][unit];
                        if factor != 0.0 {
                            for (sum, value) in sum[range.clone()].iter_mut().zip(&gradient[range])
                            {
                                *sum += factor * value;
                            }
                        }
                    }
                }
                sum
            }
        }
    }
}
