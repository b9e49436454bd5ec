//! The network, or the part of it that one site holds.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use consilium_core::{
    GroupName, ModalityKey, ModelManifest, ModelVector, Seed, TaskKey, TensorSpec,
};
use rand::{Rng, RngExt as _};

use crate::array::{Array, prepare};
use crate::net::blocks::Settings;
use crate::net::init::{Init, Start};
use crate::net::stages::Trunk;
use crate::net::stems::Stem;
use crate::op::{Flow, Map};
use crate::{EhpalNet, ModelError, NormKind, Task};

/// One dense layer on the pooled features.
#[derive(Module, Debug)]
struct Head {
    kernel: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

/// What a site holds: stems of its modalities, the trunk, heads of its tasks.
#[derive(Module, Debug)]
pub(crate) struct Parts {
    stems: Vec<Stem>,
    trunk: Trunk,
    heads: Vec<Head>,
}

/// EHPAL-Net, whole or the part that one site holds.
///
/// The parameters of a part equal those of the whole model with the same seed and study.
#[derive(Clone, Debug)]
pub struct SiteNetwork {
    spec: EhpalNet,
    manifest: ModelManifest,
    modalities: Vec<ModalityKey>,
    tasks: Vec<TaskKey>,
    device: Device,
    /// On the heap: a thousand tensors by value fill the stack of a small thread.
    pub(crate) parts: Box<Parts>,
}

/// One modality of a batch of records: two views of the same records, or one that serves as both.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The modality.
    pub modality: &'a ModalityKey,
    /// What enters the modality's own slot.
    pub a: &'a Array,
    /// What fills the other slots, when this is the anchor (the first) modality; `a` if absent.
    pub b: Option<&'a Array>,
}

/// The map before dropout, pooling and heads: `[7 * 8b, side/32, side/32, batch]`.
#[derive(Clone, Debug)]
pub struct Features(pub(crate) Tensor<4>);

impl Features {
    /// `[channels, height, width, batch]`.
    #[must_use]
    pub fn dims(&self) -> [usize; 4] {
        self.0.dims()
    }
}

impl SiteNetwork {
    /// The part for `modalities` and `tasks`, with initial weights drawn from the streams of `seed` and
    /// `study`, on `device`. Training needs a device with gradients: `device.autodiff()`.
    ///
    /// # Errors
    /// [`ModelError::Setting`], [`ModelError::UnknownModality`], [`ModelError::UnknownTask`].
    pub fn new<'k>(
        spec: &EhpalNet,
        modalities: impl IntoIterator<Item = &'k ModalityKey>,
        tasks: impl IntoIterator<Item = &'k TaskKey>,
        seed: Seed,
        study: &str,
        device: &Device,
    ) -> Result<Self, ModelError> {
        spec.check()?;
        let modalities: BTreeSet<ModalityKey> = modalities.into_iter().cloned().collect();
        let tasks: BTreeSet<TaskKey> = tasks.into_iter().cloned().collect();
        Self::build(
            spec,
            modalities,
            tasks,
            Settings::of(spec),
            seed,
            study,
            device,
        )
    }

    /// The whole model of the study.
    ///
    /// # Errors
    /// [`ModelError::Setting`].
    pub fn whole(
        spec: &EhpalNet,
        seed: Seed,
        study: &str,
        device: &Device,
    ) -> Result<Self, ModelError> {
        Self::new(
            spec,
            spec.modalities.keys(),
            spec.tasks.keys(),
            seed,
            study,
            device,
        )
    }

    fn build(
        spec: &EhpalNet,
        modalities: BTreeSet<ModalityKey>,
        tasks: BTreeSet<TaskKey>,
        settings: Settings,
        seed: Seed,
        study: &str,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let mut init = Init::new(device, seed, study);
        // BatchNorm layers form groups of their own, `norm/<owner>`. Owners are names already.
        let norm_of = |owner: &str| match spec.norm {
            NormKind::Group => None,
            NormKind::Batch => format!("norm/{owner}").parse::<GroupName>().ok(),
        };
        let mut stems = Vec::new();
        for key in &modalities {
            let modality = spec
                .modalities
                .get(key)
                .ok_or_else(|| ModelError::UnknownModality(key.clone()))?;
            stems.push(
                init.in_group(GroupName::stem(key), norm_of(key.as_str()), |init| {
                    init.at(&format!("stem.{key}"), |init| {
                        Stem::new(init, spec, modality, settings.norm)
                    })
                }),
            );
        }
        let trunk = init.in_group(GroupName::trunk(), norm_of("trunk"), |init| {
            Trunk::new(init, spec.width, settings)
        });
        let features = 56 * spec.width;
        let mut heads = Vec::new();
        for key in &tasks {
            let task = spec
                .tasks
                .get(key)
                .ok_or_else(|| ModelError::UnknownTask(key.clone()))?;
            let outputs = task.outputs();
            heads.push(init.in_group(GroupName::head(key), None, |init| {
                init.at(&format!("head.{key}"), |init| Head {
                    kernel: init.tensor(
                        "kernel",
                        [features, outputs],
                        Start::Glorot {
                            fan_in: features,
                            fan_out: outputs,
                        },
                    ),
                    bias: init.tensor("bias", [outputs], Start::Constant(0.0)),
                })
            }));
        }
        Ok(Self {
            spec: spec.clone(),
            manifest: ModelManifest {
                tensors: init.into_specs(),
            },
            modalities: modalities.into_iter().collect(),
            tasks: tasks.into_iter().collect(),
            device: device.clone(),
            parts: Box::new(Parts {
                stems,
                trunk,
                heads,
            }),
        })
    }

    /// The specification.
    #[must_use]
    pub fn spec(&self) -> &EhpalNet {
        &self.spec
    }

    /// Names, groups and shapes of the tensors held, in the order of [`groups`](Self::groups).
    #[must_use]
    pub fn manifest(&self) -> &ModelManifest {
        &self.manifest
    }

    /// The modalities held.
    #[must_use]
    pub fn modalities(&self) -> &[ModalityKey] {
        &self.modalities
    }

    /// The tasks held.
    #[must_use]
    pub fn tasks(&self) -> &[TaskKey] {
        &self.tasks
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The same network without gradients, for evaluation and prediction.
    #[must_use]
    pub fn for_inference(&self) -> Self {
        if !self.device.is_autodiff() {
            return self.clone();
        }
        Self {
            parts: Box::new(self.parts.valid()),
            device: self.device.clone().inner(),
            ..self.clone()
        }
    }

    /// The same network in which only the tensors of which `trained` says so (in manifest order) have a gradient:
    /// the backward pass ends at the first of them.
    pub(crate) fn frozen_but(&self, trained: &[bool]) -> Self {
        let mut freeze = Freeze {
            trained: trained.iter(),
        };
        Self {
            parts: Box::new(Parts::clone(&self.parts).map(&mut freeze)),
            ..self.clone()
        }
    }

    /// The values of every group held.
    #[must_use]
    pub fn groups(&self) -> ModelVector {
        let mut reader = Reader { values: Vec::new() };
        self.parts.visit(&mut reader);
        let mut groups = BTreeMap::<GroupName, Vec<f32>>::new();
        for (spec, values) in self.manifest.tensors.iter().zip(reader.values) {
            groups.entry(spec.group.clone()).or_default().extend(values);
        }
        ModelVector(groups)
    }

    /// Replaces the values of the groups in `vector`; other groups and all parameter ids stay.
    ///
    /// # Errors
    /// [`ModelError::UnknownGroup`] and [`ModelError::WrongLength`]; then nothing is changed.
    pub fn load(&mut self, vector: &ModelVector) -> Result<(), ModelError> {
        let lengths = self.manifest.group_lengths();
        for (group, values) in &vector.0 {
            let expected = *lengths
                .get(group)
                .ok_or_else(|| ModelError::UnknownGroup(group.clone()))?;
            if values.len() != expected {
                let (group, got) = (group.clone(), values.len());
                return Err(ModelError::WrongLength {
                    group,
                    got,
                    expected,
                });
            }
        }
        let mut used = BTreeMap::<&GroupName, usize>::new();
        let mut tensors = Vec::with_capacity(self.manifest.tensors.len());
        for spec in &self.manifest.tensors {
            tensors.push(vector.0.get(&spec.group).map(|values| {
                let start = used.entry(&spec.group).or_insert(0);
                let range = *start..*start + spec.len();
                *start = range.end;
                &values[range]
            }));
        }
        self.write(tensors);
        Ok(())
    }

    /// Replaces tensors, in manifest order; `None` keeps one.
    pub(crate) fn write(&mut self, tensors: Vec<Option<&[f32]>>) {
        let device = self.device.clone();
        let mut writer = Writer {
            tensors: tensors.into_iter(),
            device,
        };
        *self.parts = Parts::clone(&self.parts).map(&mut writer);
    }

    /// The feature map of a batch (section 10.3): each view's modality fills its own slot with view a; every
    /// other slot gets the anchor's view b, or the learned absent embedding where `absent` says so.
    ///
    /// # Errors
    /// [`ModelError::UnknownModality`], [`ModelError::InputShape`], [`ModelError::NotFinite`].
    pub fn features(&self, views: &[View<'_>], absent: [bool; 4]) -> Result<Features, ModelError> {
        let (flow, features) = self.pass(views, absent)?;
        Ok(Features(flow.finish(&features)))
    }

    /// The forward pass up to the feature map.
    pub(crate) fn pass(
        &self,
        views: &[View<'_>],
        absent: [bool; 4],
    ) -> Result<(Flow, Map), ModelError> {
        let anchor = views.first().ok_or_else(|| ModelError::Setting {
            key: "views".into(),
            value: "[]".into(),
            remedy: "give at least one modality of the batch".into(),
        })?;
        let records = anchor.a.records();
        let mut inputs = Vec::with_capacity(views.len());
        for (index, view) in views.iter().enumerate() {
            let stem = self.stem(view.modality)?;
            let b = if index == 0 { view.b } else { None };
            for array in [Some(view.a), b].into_iter().flatten() {
                if array.records() != records {
                    let shape = vec![records];
                    return Err(ModelError::ArrayLength {
                        shape,
                        got: array.records(),
                    });
                }
            }
            let prepare = |array| prepare(&self.spec, view.modality, array, &self.device);
            let slot = self.spec.modalities[view.modality].slot();
            inputs.push((stem, slot, prepare(view.a)?, b.map(prepare).transpose()?));
        }
        let mut flow = self.flow();
        let mut own: [Option<Map>; 4] = Default::default();
        let mut partner = None;
        for (stem, slot, a, b) in &inputs {
            let mut run = |x: &Tensor<4>| {
                let x = flow.input(x);
                stem.forward(&mut flow, &x, "")
            };
            let map = run(a);
            if partner.is_none() {
                partner = Some(b.as_ref().map_or_else(|| map.clone(), run));
            }
            own[slot - 1] = Some(map);
        }
        let Some(partner) = partner else {
            unreachable!("there is an anchor")
        };
        let features = self.fuse(&mut flow, own, &partner, absent);
        Ok((flow, features))
    }

    fn flow(&self) -> Flow {
        match self.spec.norm {
            NormKind::Group => Flow::on(&self.device),
            NormKind::Batch => Flow::generic(),
        }
    }

    fn fuse(
        &self,
        flow: &mut Flow,
        own: [Option<Map>; 4],
        partner: &Map,
        absent: [bool; 4],
    ) -> Map {
        let mut index = 0;
        let slots = own.map(|own| {
            let stem = match (&own, absent[index]) {
                (Some(own), _) => Some(own),
                (None, true) => None,
                (None, false) => Some(partner),
            };
            index += 1;
            self.parts.trunk.enter(flow, index, stem, partner.dims())
        });
        self.parts.trunk.features(flow, &slots)
    }

    fn stem(&self, key: &ModalityKey) -> Result<&Stem, ModelError> {
        let index = self.modalities.binary_search(key);
        index
            .map(|index| &self.parts.stems[index])
            .map_err(|_| ModelError::UnknownModality(key.clone()))
    }

    /// Kernel `[features, outputs]` and bias of a task's head.
    pub(crate) fn head(&self, task: &TaskKey) -> Result<(Tensor<2>, Tensor<1>), ModelError> {
        let index = self
            .tasks
            .binary_search(task)
            .map_err(|_| ModelError::UnknownTask(task.clone()))?;
        let head = &self.parts.heads[index];
        Ok((head.kernel.val(), head.bias.val()))
    }

    /// Logits `[outputs, batch]` of a task: dropout mask, mean over the map, dense layer.
    pub(crate) fn logits(
        &self,
        task: &TaskKey,
        features: &Features,
        mask: Option<&Tensor<4>>,
    ) -> Result<Tensor<2>, ModelError> {
        let (kernel, bias) = self.head(task)?;
        let pooled = crate::op::pixel_mean(&features.0, mask);
        let outputs = kernel.dims()[1];
        Ok(kernel.transpose().matmul(pooled) + bias.reshape([outputs, 1]))
    }

    /// The task's description.
    pub(crate) fn task(&self, key: &TaskKey) -> Result<&Task, ModelError> {
        self.spec
            .tasks
            .get(key)
            .ok_or_else(|| ModelError::UnknownTask(key.clone()))
    }

    /// A dropout mask for a feature map, drawn record by record: 0, or 1 / (1 - rate).
    pub(crate) fn dropout_mask(&self, dims: [usize; 4], rng: &mut impl Rng) -> Option<Tensor<4>> {
        let rate = self.spec.dropout;
        if rate == 0.0 {
            return None;
        }
        let [channels, height, width, batch] = dims;
        let per = channels * height * width;
        let mut mask = vec![0.0; per * batch];
        for b in 0..batch {
            for m in 0..per {
                if rng.random::<f32>() >= rate {
                    mask[m * batch + b] = 1.0 / (1.0 - rate);
                }
            }
        }
        Some(Tensor::from_data(TensorData::new(mask, dims), &self.device))
    }

    /// The tensors of the manifest, for helpers of this crate.
    pub(crate) fn tensor_specs(&self) -> &[TensorSpec] {
        &self.manifest.tensors
    }
}

struct Reader {
    values: Vec<Vec<f32>>,
}

impl ModuleVisitor for Reader {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.values.push(host_values(param.val()));
    }
}

/// A tensor's values on the host, in C order.
pub(crate) fn host_values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .into_data()
        .convert::<f32>()
        .try_into_vec()
        .expect("converted to f32 just before")
}

struct Writer<'a> {
    tensors: std::vec::IntoIter<Option<&'a [f32]>>,
    device: Device,
}

struct Freeze<'a> {
    trained: std::slice::Iter<'a, bool>,
}

impl ModuleMapper for Freeze<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.trained.next() {
            Some(false) => param.set_require_grad(false),
            _ => param,
        }
    }
}

impl ModuleMapper for Writer<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(values) = self.tensors.next().flatten() else {
            return param;
        };
        let (id, old, mapper) = param.consume();
        let data = TensorData::new(values.to_vec(), old.shape());
        let new = Tensor::from_data(data, &self.device);
        let new = if old.is_require_grad() {
            new.require_grad()
        } else {
            new
        };
        Param::from_mapped_value(id, new, mapper)
    }
}

#[cfg(test)]
impl SiteNetwork {
    /// A whole network with block settings that a specification cannot express.
    pub(crate) fn with_settings(spec: &EhpalNet, settings: Settings, device: &Device) -> Self {
        let (modalities, tasks) = (
            spec.modalities.keys().cloned().collect(),
            spec.tasks.keys().cloned().collect(),
        );
        Self::build(spec, modalities, tasks, settings, Seed(0), "test", device).unwrap()
    }

    /// Four different inputs for slots 1 to 4, with the intermediate maps if they are watched, which needs one
    /// record.
    pub(crate) fn features_of_four(
        &self,
        inputs: &[Tensor<4>; 4],
        watch: bool,
    ) -> (Features, BTreeMap<String, Vec<f64>>) {
        let mut flow = match self.spec.norm {
            NormKind::Group => Flow::like(&inputs[0]),
            NormKind::Batch => Flow::generic(),
        };
        flow.seen = watch.then(BTreeMap::new);
        let mut maps: [Option<Map>; 4] = Default::default();
        for (index, key) in self.modalities.iter().enumerate() {
            let slot = self.spec.modalities[key].slot();
            let x = flow.input(&inputs[slot - 1]);
            let name = format!("stem{slot}");
            maps[slot - 1] = Some(self.parts.stems[index].forward(&mut flow, &x, &name));
        }
        let partner = maps[0].clone().unwrap();
        let features = self.fuse(&mut flow, maps, &partner, [false; 4]);
        let seen = flow.seen.take().unwrap_or_default();
        (Features(flow.finish(&features)), seen)
    }
}
