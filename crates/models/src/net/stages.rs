//! EHF stages, slot adapters, absent embeddings and the trunk made of them (`ehpal-net.md` section 2).

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::blocks::{Emrc, LateFusion, Mhcf, Pcmfa, Settings, Sir, sampled};
use super::init::{Init, Start};
use super::layers::{Norm, Pointwise};
use crate::op::{Flow, Map};

/// EMRC, then PCMFA.
#[derive(Module, Debug)]
pub(crate) struct Ehf1 {
    emrc: Emrc,
    pcmfa: Pcmfa,
}

impl Ehf1 {
    fn new(init: &mut Init<'_>, c: [usize; 2], f: usize, set: Settings) -> Self {
        Self {
            emrc: init.at("emrc", |init| Emrc::new(init, c, f, 1, set)),
            pcmfa: init.at("pcmfa", |init| Pcmfa::new(init, f, set)),
        }
    }

    fn forward(&self, flow: &mut Flow, x: [&Map; 2], name: &str) -> [Map; 2] {
        let e = self.emrc.forward(flow, x);
        report(flow, name, "emrc.out", &e);
        let p = self
            .pcmfa
            .forward(flow, e.each_ref(), &format!("{name}.pcmfa"));
        report(flow, name, "pcmfa.unit2.out", &p);
        p
    }
}

fn report(flow: &mut Flow, name: &str, what: &str, pair: &[Map; 2]) {
    for (index, map) in pair.iter().enumerate() {
        flow.watch(|| format!("{name}.{what}{}", index + 1), map);
    }
}

/// EMRC with stride 2, norms, PCMFA, then SIR beside LF and its convolution.
#[derive(Module, Debug)]
pub(crate) struct Ehf2 {
    emrc: Emrc,
    norm_a: Norm,
    norm_b: Norm,
    pcmfa: Pcmfa,
    sir: Sir,
    lf: LateFusion,
    lf_conv: Pointwise,
}

impl Ehf2 {
    fn new(
        init: &mut Init<'_>,
        f: usize,
        outputs: &[usize],
        sir_stride: usize,
        set: Settings,
    ) -> Self {
        Self {
            emrc: init.at("emrc", |init| Emrc::new(init, [f, f], f, 2, set)),
            norm_a: init.at("norm_a", |init| Norm::new(init, f, set.norm)),
            norm_b: init.at("norm_b", |init| Norm::new(init, f, set.norm)),
            pcmfa: init.at("pcmfa", |init| Pcmfa::new(init, f, set)),
            sir: init.at("sir", |init| Sir::new(init, f, outputs, sir_stride)),
            lf: init.at("lf", LateFusion::new),
            lf_conv: init.at("lf_conv", |init| Pointwise::new(init, 2 * f, f, 8, true)),
        }
    }

    /// The merged stream and the two SIR outputs.
    fn forward(&self, flow: &mut Flow, x: [&Map; 2], name: &str) -> (Map, [Map; 2]) {
        let e = self.emrc.forward(flow, x);
        report(flow, name, "emrc.out", &e);
        let e = [
            self.norm_a.forward(flow, &e[0]),
            self.norm_b.forward(flow, &e[1]),
        ];
        let p = self
            .pcmfa
            .forward(flow, e.each_ref(), &format!("{name}.pcmfa"));
        report(flow, name, "pcmfa.unit2.out", &p);
        let refined = self.sir.forward(flow, p.each_ref());
        report(flow, name, "sir.out", &refined);
        let merged = self.lf.forward(flow, p.each_ref());
        flow.watch(|| format!("{name}.lf"), &merged);
        let x = self.lf_conv.forward(flow, &merged);
        flow.watch(|| format!("{name}.lf_conv"), &x);
        (x, refined)
    }
}

/// The first stage: two EHF1.
#[derive(Module, Debug)]
pub(crate) struct FirstStage {
    ehf1_1: Ehf1,
    ehf1_2: Ehf1,
}

/// A later stage: EHF1, then EHF2.
#[derive(Module, Debug)]
pub(crate) struct LaterStage {
    ehf1_1: Ehf1,
    ehf2_1: Ehf2,
}

impl LaterStage {
    fn new(
        init: &mut Init<'_>,
        c: [usize; 2],
        f: usize,
        outputs: &[usize],
        sir_stride: usize,
        set: Settings,
    ) -> Self {
        Self {
            ehf1_1: init.at("ehf1_1", |init| Ehf1::new(init, c, f, set)),
            ehf2_1: init.at("ehf2_1", |init| {
                Ehf2::new(init, f, outputs, sir_stride, set)
            }),
        }
    }

    fn forward(&self, flow: &mut Flow, x: [&Map; 2], name: &str) -> (Map, [Map; 2]) {
        let p = self.ehf1_1.forward(flow, x, &format!("{name}.ehf1_1"));
        self.ehf2_1
            .forward(flow, p.each_ref(), &format!("{name}.ehf2_1"))
    }
}

/// Adapter of slot 3.
#[derive(Module, Debug)]
pub(crate) struct Adapter3 {
    mhcf: Mhcf,
}

/// Adapter of slot 4.
#[derive(Module, Debug)]
pub(crate) struct Adapter4 {
    mhcf1: Mhcf,
    mhcf2: Mhcf,
}

/// Learned vectors that stand for an absent modality at each entry of the trunk (section 10.2 A).
#[derive(Module, Debug)]
pub(crate) struct Absent {
    slot1: Param<Tensor<1>>,
    slot2: Param<Tensor<1>>,
    slot3: Param<Tensor<1>>,
    slot4: Param<Tensor<1>>,
}

impl Absent {
    fn new(init: &mut Init<'_>, width: usize) -> Self {
        // Positive like the maps they stand for, and away from zero (section 6.1).
        let start = Start::Uniform(0.1, 1.0);
        Self {
            slot1: init.tensor("slot1", [width], start),
            slot2: init.tensor("slot2", [width], start),
            slot3: init.tensor("slot3", [4 * width], start),
            slot4: init.tensor("slot4", [8 * width], start),
        }
    }
}

/// Everything between the stems and the heads; held and trained by every site.
#[derive(Module, Debug)]
pub(crate) struct Trunk {
    adapter3: Adapter3,
    adapter4: Adapter4,
    ehf64: FirstStage,
    ehf128: LaterStage,
    ehf256: LaterStage,
    ehf512: LaterStage,
    absent: Absent,
}

impl Trunk {
    pub fn new(init: &mut Init<'_>, b: usize, set: Settings) -> Self {
        Self {
            adapter3: init.at("adapter3", |init| Adapter3 {
                mhcf: init.at("mhcf", |init| Mhcf::new(init, b, 4 * b, 2, set)),
            }),
            adapter4: init.at("adapter4", |init| Adapter4 {
                mhcf1: init.at("mhcf1", |init| Mhcf::new(init, b, 8 * b, 2, set)),
                mhcf2: init.at("mhcf2", |init| Mhcf::new(init, 8 * b, 8 * b, 2, set)),
            }),
            ehf64: init.at("ehf64", |init| FirstStage {
                ehf1_1: init.at("ehf1_1", |init| Ehf1::new(init, [b, b], b, set)),
                ehf1_2: init.at("ehf1_2", |init| Ehf1::new(init, [b, b], b, set)),
            }),
            ehf128: init.at("ehf128", |init| {
                LaterStage::new(init, [b, b], 2 * b, &[4 * b, 8 * b], 2, set)
            }),
            ehf256: init.at("ehf256", |init| {
                LaterStage::new(init, [2 * b, 4 * b], 4 * b, &[8 * b], 2, set)
            }),
            ehf512: init.at("ehf512", |init| {
                LaterStage::new(init, [4 * b, 8 * b], 8 * b, &[8 * b], 1, set)
            }),
            absent: init.at("absent", |init| Absent::new(init, b)),
        }
    }

    /// What enters the trunk at `slot` (1 to 4) from a stem output of shape `like`, or in its absence.
    pub fn enter(&self, flow: &mut Flow, slot: usize, stem: Option<&Map>, like: [usize; 4]) -> Map {
        let [_, height, width, batch] = like;
        let absent = &self.absent;
        let Some(stem) = stem else {
            let (vector, shrink) = match slot {
                1 => (&absent.slot1, 1),
                2 => (&absent.slot2, 1),
                3 => (&absent.slot3, 2),
                _ => (&absent.slot4, 4),
            };
            return flow.broadcast(vector, [height / shrink, width / shrink], batch);
        };
        match slot {
            3 => {
                let small = sampled(flow, stem, 2);
                let y = self.adapter3.mhcf.forward(flow, stem, &small);
                flow.watch(|| "adapter3.mhcf.out".into(), &y);
                y
            }
            4 => {
                let small = sampled(flow, stem, 2);
                let y = self.adapter4.mhcf1.forward(flow, stem, &small);
                flow.watch(|| "adapter4.mhcf1.out".into(), &y);
                let small = sampled(flow, &y, 2);
                let y = self.adapter4.mhcf2.forward(flow, &y, &small);
                flow.watch(|| "adapter4.mhcf2.out".into(), &y);
                y
            }
            _ => stem.clone(),
        }
    }

    /// The feature map `[7 * 8b, side/32, side/32, batch]` from what entered the four slots.
    pub fn features(&self, flow: &mut Flow, slots: &[Map; 4]) -> Map {
        let p = self
            .ehf64
            .ehf1_1
            .forward(flow, [&slots[0], &slots[1]], "ehf64.ehf1_1");
        let p = self
            .ehf64
            .ehf1_2
            .forward(flow, p.each_ref(), "ehf64.ehf1_2");
        let (x, [a128, b128]) = self.ehf128.forward(flow, p.each_ref(), "ehf128");
        let (x, [a256, b256]) = self.ehf256.forward(flow, [&x, &slots[2]], "ehf256");
        let (x, [a512, b512]) = self.ehf512.forward(flow, [&x, &slots[3]], "ehf512");
        let features = flow.concat(&[&x, &a128, &a256, &a512, &b128, &b256, &b512]);
        flow.watch(|| "concat".into(), &features);
        features
    }
}
