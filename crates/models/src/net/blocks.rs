//! MHCF, RGSA/EMRC, MACFusion/PCMFA, SIR and LF (`ehpal-net.md` section 3).

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::init::{Init, Start};
use super::layers::{Depthwise, Norm, NormRule, Pointwise};
use crate::kernel::gates::Formulas;
use crate::op::{Flow, Map, UnitTensors};
use crate::{Activation, EhpalNet, NormKind, SParam, ScoreScale};

/// The settings that all blocks share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub norm: NormRule,
    pub activation: Activation,
    pub score_scale: ScoreScale,
    pub guard_eps2: f32,
    pub s_param: SParam,
}

impl Settings {
    pub fn of(spec: &EhpalNet) -> Self {
        Self {
            norm: match spec.norm {
                NormKind::Group => NormRule::Group,
                NormKind::Batch => NormRule::Batch,
            },
            activation: spec.mhcf_act,
            score_scale: spec.score_scale,
            guard_eps2: spec.guard_eps2,
            s_param: spec.s_param,
        }
    }
}

/// Multi-kernel heterogeneous convolution, section 3.1.
#[derive(Module, Debug)]
pub(crate) struct Mhcf {
    gpc: Pointwise,
    gpc_norm: Norm,
    ddc: Depthwise,
    ddc_norm: Norm,
    dwc: Depthwise,
    dwc_norm: Norm,
    fuse: Pointwise,
    fuse_norm: Norm,
    res: Pointwise,
    res_norm: Norm,
    #[module(skip)]
    activation: Activation,
}

impl Mhcf {
    pub fn new(init: &mut Init<'_>, c: usize, f: usize, stride: usize, set: Settings) -> Self {
        let norm = |channels| move |init: &mut Init<'_>| Norm::new(init, channels, set.norm);
        Self {
            gpc: init.at("gpc", |init| Pointwise::new(init, c, f, 8, false)),
            gpc_norm: init.at("gpc_norm", norm(f)),
            ddc: init.at("ddc", |init| {
                Depthwise::new(init, c, 3, false).with_stride(stride)
            }),
            ddc_norm: init.at("ddc_norm", norm(c)),
            dwc: init.at("dwc", |init| {
                Depthwise::new(init, c, 5, false).with_stride(stride)
            }),
            dwc_norm: init.at("dwc_norm", norm(c)),
            fuse: init.at("fuse", |init| Pointwise::new(init, f + 2 * c, f, 8, false)),
            fuse_norm: init.at("fuse_norm", norm(f)),
            res: init.at("res", |init| Pointwise::new(init, c, f, 8, false)),
            res_norm: init.at("res_norm", norm(f)),
            activation: set.activation,
        }
    }

    /// `sampled` is what the strided 1x1 convolutions read: `x` itself at stride 1.
    pub fn forward(&self, flow: &mut Flow, x: &Map, sampled: &Map) -> Map {
        let p1 = self.gpc.forward(flow, sampled);
        let p1 = self.gpc_norm.forward(flow, &p1);
        let p3 = self.ddc.forward(flow, x);
        let p3 = self.ddc_norm.forward(flow, &p3);
        let p5 = self.dwc.forward(flow, x);
        let p5 = self.dwc_norm.forward(flow, &p5);
        let u = flow.shuffle_concat(&[&p1, &p3, &p5]);
        let u = self.fuse.forward(flow, &u);
        let u = self.fuse_norm.forward(flow, &u);
        let r = self.res.forward(flow, sampled);
        let r = self.res_norm.forward(flow, &r);
        flow.add_activate(&r, &u, self.activation)
    }
}

/// What strided 1x1 convolutions read.
pub(crate) fn sampled(flow: &mut Flow, x: &Map, stride: usize) -> Map {
    if stride == 1 {
        x.clone()
    } else {
        flow.subsample(x)
    }
}

/// One stream of EMRC, section 3.2.
#[derive(Module, Debug)]
pub(crate) struct Rgsa {
    mhcf1: Mhcf,
    mid_norm: Norm,
    mhcf2: Mhcf,
    pw: Pointwise,
    pw_norm: Norm,
    short: Pointwise,
    short_norm: Norm,
    stride: usize,
}

impl Rgsa {
    pub fn new(init: &mut Init<'_>, c: usize, f: usize, stride: usize, set: Settings) -> Self {
        let norm = |init: &mut Init<'_>| Norm::new(init, f, set.norm);
        Self {
            mhcf1: init.at("mhcf1", |init| Mhcf::new(init, c, f, stride, set)),
            mid_norm: init.at("mid_norm", norm),
            mhcf2: init.at("mhcf2", |init| Mhcf::new(init, f, f, 1, set)),
            pw: init.at("pw", |init| Pointwise::new(init, f, f, 1, true)),
            pw_norm: init.at("pw_norm", norm),
            short: init.at("short", |init| Pointwise::new(init, c, f, 8, true)),
            short_norm: init.at("short_norm", norm),
            stride,
        }
    }

    pub fn forward(&self, flow: &mut Flow, x: &Map) -> Map {
        let sampled = sampled(flow, x, self.stride);
        let m = self.mhcf1.forward(flow, x, &sampled);
        let m = self.mid_norm.forward_relu(flow, &m);
        let m = self.mhcf2.forward(flow, &m, &m);
        let m = self.pw.forward(flow, &m);
        let m = self.pw_norm.forward(flow, &m);
        let k = self.short.forward(flow, &sampled);
        let k = self.short_norm.forward(flow, &k);
        flow.add_activate(&m, &k, Activation::Relu)
    }
}

/// Two streams with separate weights, section 3.2.
#[derive(Module, Debug)]
pub(crate) struct Emrc {
    a: Rgsa,
    b: Rgsa,
}

impl Emrc {
    pub fn new(init: &mut Init<'_>, c: [usize; 2], f: usize, stride: usize, set: Settings) -> Self {
        Self {
            a: init.at("a", |init| Rgsa::new(init, c[0], f, stride, set)),
            b: init.at("b", |init| Rgsa::new(init, c[1], f, stride, set)),
        }
    }

    pub fn forward(&self, flow: &mut Flow, x: [&Map; 2]) -> [Map; 2] {
        [self.a.forward(flow, x[0]), self.b.forward(flow, x[1])]
    }
}

/// The weights of one PCMFA unit, section 3.3, without the two scalars that the reference never uses.
#[derive(Module, Debug)]
pub(crate) struct MacFusion {
    psi_real: Param<Tensor<2>>,
    psi_imag: Param<Tensor<2>>,
    #[allow(non_snake_case)] // The name in the reference's parameter list.
    S: Param<Tensor<1>>,
    curvature_log: Param<Tensor<1>>,
    lorentz_alpha: Param<Tensor<1>>,
    hyper_beta: Param<Tensor<1>>,
    hyper_gate: Param<Tensor<1>>,
    hyper_gate1: Param<Tensor<1>>,
    cross_gate: Param<Tensor<1>>,
    output_gate: Param<Tensor<1>>,
}

impl MacFusion {
    pub fn new(init: &mut Init<'_>, f: usize, set: Settings) -> Self {
        let glorot = Start::Glorot {
            fan_in: f,
            fan_out: f,
        };
        let one = Start::Constant(1.0);
        let s = match set.s_param {
            SParam::Sigmoid => 4.0_f32.ln(), // logit(0.8): S = 1.8
            SParam::Raw => 1.8,
        };
        let alpha = match set.score_scale {
            ScoreScale::InverseUnits => Start::Sign(0.1),
            ScoreScale::One => Start::TruncatedNormal(std::f32::consts::SQRT_2),
        };
        Self {
            psi_real: init.tensor("psi_real", [f, f], glorot),
            psi_imag: init.tensor("psi_imag", [f, f], glorot),
            S: init.tensor("S", [f], Start::Constant(s)),
            curvature_log: init.tensor(
                "curvature_log",
                [1],
                Start::TruncatedNormal(std::f32::consts::SQRT_2),
            ),
            lorentz_alpha: init.tensor("lorentz_alpha", [1], alpha),
            hyper_beta: init.tensor(
                "hyper_beta",
                [f],
                Start::TruncatedNormal((2.0 / f as f32).sqrt()),
            ),
            hyper_gate: init.tensor("hyper_gate", [1], one),
            hyper_gate1: init.tensor("hyper_gate1", [1], one),
            cross_gate: init.tensor("cross_gate", [f], one),
            output_gate: init.tensor("output_gate", [f], one),
        }
    }

    pub fn tensors(&self) -> UnitTensors {
        UnitTensors {
            psi: [self.psi_real.val(), self.psi_imag.val()],
            rest: [
                self.S.val(),
                self.curvature_log.val(),
                self.lorentz_alpha.val(),
                self.hyper_beta.val(),
                self.hyper_gate.val(),
                self.hyper_gate1.val(),
                self.cross_gate.val(),
                self.output_gate.val(),
            ],
        }
    }
}

/// Two MACFusion units in series, section 3.3.
#[derive(Module, Debug)]
pub(crate) struct Pcmfa {
    unit1: MacFusion,
    unit2: MacFusion,
    #[module(skip)]
    formulas: Formulas,
}

impl Pcmfa {
    pub fn new(init: &mut Init<'_>, f: usize, set: Settings) -> Self {
        Self {
            unit1: init.at("unit1", |init| MacFusion::new(init, f, set)),
            unit2: init.at("unit2", |init| MacFusion::new(init, f, set)),
            formulas: Formulas {
                score_scale: set.score_scale.factor(f),
                guard_eps2: set.guard_eps2,
                sigmoid_s: set.s_param == SParam::Sigmoid,
            },
        }
    }

    /// `name` is for a test that watches.
    pub fn forward(&self, flow: &mut Flow, x: [&Map; 2], name: &str) -> [Map; 2] {
        flow.pcmfa(
            x,
            [&self.unit1.tensors(), &self.unit2.tensors()],
            self.formulas,
            name,
        )
    }
}

/// One unit of SIR, section 3.4. No normalisation anywhere.
#[derive(Module, Debug)]
pub(crate) struct SirUnit {
    g1: Pointwise,
    dw3: Depthwise,
    dw5: Depthwise,
    dw3d2: Depthwise,
    mixdw: Depthwise,
    mix1: Pointwise,
    down: Depthwise,
    skip1: Pointwise,
    skipdw: Depthwise,
}

impl SirUnit {
    pub fn new(init: &mut Init<'_>, c: usize, f: usize, stride: usize) -> Self {
        let mixed = f / 4 + 3 * c;
        Self {
            g1: init.at("g1", |init| Pointwise::new(init, c, f / 4, 8, true)),
            dw3: init.at("dw3", |init| Depthwise::new(init, c, 3, true)),
            dw5: init.at("dw5", |init| Depthwise::new(init, c, 5, true)),
            dw3d2: init.at("dw3d2", |init| {
                Depthwise::new(init, c, 3, true).with_dilation(2)
            }),
            mixdw: init.at("mixdw", |init| Depthwise::new(init, mixed, 3, true)),
            mix1: init.at("mix1", |init| Pointwise::new(init, mixed, f, 8, true)),
            down: init.at("down", |init| {
                Depthwise::new(init, f, 3, true).with_stride(stride)
            }),
            skip1: init.at("skip1", |init| Pointwise::new(init, c, f, 8, true)),
            skipdw: init.at("skipdw", |init| {
                Depthwise::new(init, f, 3, true).with_stride(stride)
            }),
        }
    }

    pub fn forward(&self, flow: &mut Flow, x: &Map) -> Map {
        let g1 = self.g1.forward(flow, x);
        let (dw3, dw5) = (self.dw3.forward(flow, x), self.dw5.forward(flow, x));
        let dw3d2 = self.dw3d2.forward(flow, x);
        let u = flow.shuffle_concat(&[&g1, &dw3, &dw5, &dw3d2]);
        let u = self.mixdw.forward(flow, &u);
        let u = self.mix1.forward(flow, &u);
        let u = self.down.forward(flow, &u);
        let k = self.skip1.forward(flow, x);
        let k = self.skipdw.forward(flow, &k);
        flow.add_activate(&k, &u, Activation::Gelu)
    }
}

/// The units of one stream.
#[derive(Module, Debug)]
pub(crate) struct SirChain {
    unit1: SirUnit,
    unit2: Option<SirUnit>,
    unit3: Option<SirUnit>,
}

impl SirChain {
    /// Units with the given output channels.
    pub fn new(init: &mut Init<'_>, c: usize, outputs: &[usize], stride: usize) -> Self {
        let mut unit = |name: &str, index: usize| {
            let to = *outputs.get(index)?;
            let from = if index == 0 { c } else { outputs[index - 1] };
            Some(init.at(name, |init| SirUnit::new(init, from, to, stride)))
        };
        let unit1 = unit("unit1", 0).expect("a chain has at least one unit");
        Self {
            unit1,
            unit2: unit("unit2", 1),
            unit3: unit("unit3", 2),
        }
    }

    pub fn forward(&self, flow: &mut Flow, x: &Map) -> Map {
        let first = self.unit1.forward(flow, x);
        let rest = self.unit2.iter().chain(&self.unit3);
        rest.fold(first, |x, unit| unit.forward(flow, &x))
    }
}

/// SIR: independent weights per stream, section 3.4.
#[derive(Module, Debug)]
pub(crate) struct Sir {
    a: SirChain,
    b: SirChain,
}

impl Sir {
    pub fn new(init: &mut Init<'_>, c: usize, outputs: &[usize], stride: usize) -> Self {
        Self {
            a: init.at("a", |init| SirChain::new(init, c, outputs, stride)),
            b: init.at("b", |init| SirChain::new(init, c, outputs, stride)),
        }
    }

    pub fn forward(&self, flow: &mut Flow, x: [&Map; 2]) -> [Map; 2] {
        [self.a.forward(flow, x[0]), self.b.forward(flow, x[1])]
    }
}

/// Late fusion: two learned scalars, section 3.5.
#[derive(Module, Debug)]
pub(crate) struct LateFusion {
    global_scale1: Param<Tensor<1>>,
    global_scale2: Param<Tensor<1>>,
}

impl LateFusion {
    pub fn new(init: &mut Init<'_>) -> Self {
        Self {
            global_scale1: init.tensor("global_scale1", [1], Start::Constant(1.0)),
            global_scale2: init.tensor("global_scale2", [1], Start::Constant(1.0)),
        }
    }

    pub fn forward(&self, flow: &mut Flow, x: [&Map; 2]) -> Map {
        let a = flow.scale(x[0], &self.global_scale1);
        let b = flow.scale(x[1], &self.global_scale2);
        flow.concat(&[&a, &b])
    }
}
