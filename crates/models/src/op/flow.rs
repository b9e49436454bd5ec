//! One way to write a forward pass, two ways to run it: on a [`Tape`], or in Burn's own operations.

use burn::module::Param;
use burn::tensor::{Device, Tensor};

use super::generic::{self, UnitTensors};
use super::tape::{Id, Tape};
use crate::Activation;
use crate::kernel::dense::Dense;
use crate::kernel::depthwise::Depthwise;
use crate::kernel::gates::Formulas;
use crate::kernel::norm::GroupNorm;
use crate::kernel::pointwise::Product;
use crate::kernel::taps::Axis;

/// A map `[channels, height, width, batch]` within a forward pass.
#[derive(Clone, Debug)]
pub(crate) enum Map {
    /// A Burn tensor.
    Tensor(Tensor<4>),
    /// A value on the tape.
    Tape(Id, [usize; 4]),
}

impl Map {
    /// `[channels, height, width, batch]`.
    pub fn dims(&self) -> [usize; 4] {
        match self {
            Self::Tensor(tensor) => tensor.dims(),
            Self::Tape(_, dims) => *dims,
        }
    }

    fn id(&self) -> Id {
        match self {
            Self::Tape(id, _) => *id,
            // A pass makes maps of one kind only.
            Self::Tensor(_) => unreachable!("a tensor on the tape"),
        }
    }

    fn tensor(&self) -> &Tensor<4> {
        match self {
            Self::Tensor(tensor) => tensor,
            Self::Tape(..) => unreachable!("a tape value among tensors"),
        }
    }
}

/// A forward pass.
#[derive(Default)]
pub(crate) struct Flow {
    tape: Option<Tape>,
    /// Named intermediate maps in NHWC order, when tests ask for them.
    #[cfg(test)]
    pub seen: Option<std::collections::BTreeMap<String, Vec<f64>>>,
}

impl Flow {
    /// A pass in single precision: on the tape when the device is the CPU.
    pub fn on(device: &Device) -> Self {
        Self::like(&Tensor::zeros([1, 1, 1, 1], device))
    }

    /// A pass over inputs like `x`: on the tape when that is on the CPU in single precision.
    pub fn like(x: &Tensor<4>) -> Self {
        let on_kernels = super::host::Operand::of(x).is_some();
        let tape = on_kernels.then(Tape::default);
        #[cfg(test)]
        return Self {
            tape,
            ..Self::default()
        };
        #[cfg(not(test))]
        Self { tape }
    }

    /// A pass in Burn's operations, which also knows BatchNorm.
    pub fn generic() -> Self {
        Self::default()
    }

    /// An input of the pass.
    pub fn input(&mut self, x: &Tensor<4>) -> Map {
        match &mut self.tape {
            None => Map::Tensor(x.clone()),
            Some(tape) => Map::Tape(operand(tape, x), x.dims()),
        }
    }

    /// The tape with the place of `map` on it; nothing for a pass in Burn's operations.
    pub fn into_tape(self, map: &Map) -> Option<(Tape, Id)> {
        self.tape.map(|tape| (tape, map.id()))
    }

    /// The result of the pass.
    pub fn finish(self, map: &Map) -> Tensor<4> {
        match (self.tape, map) {
            (Some(tape), Map::Tape(id, dims)) => tape.finish(*id, *dims),
            (_, map) => map.tensor().clone(),
        }
    }

    /// Reports an intermediate map to a test that watches.
    pub fn watch(&mut self, _name: impl FnOnce() -> String, _map: &Map) {
        #[cfg(test)]
        if self.seen.is_some() {
            let [c, h, w, b] = _map.dims();
            let values: Vec<f64> = match (_map, &self.tape) {
                (Map::Tensor(tensor), _) => tensor
                    .clone()
                    .into_data()
                    .convert::<f64>()
                    .try_into_vec()
                    .unwrap(),
                (Map::Tape(id, _), Some(tape)) => {
                    tape.get(*id).iter().map(|&v| f64::from(v)).collect()
                }
                _ => unreachable!(),
            };
            let at = |i: usize, p: usize, k: usize| values[(k * h * w + p) * b + i];
            let mut nhwc = Vec::with_capacity(values.len());
            for i in 0..b {
                for p in 0..h * w {
                    nhwc.extend((0..c).map(|k| at(i, p, k)));
                }
            }
            if let Some(seen) = &mut self.seen {
                seen.insert(_name(), nhwc);
            }
        }
    }

    /// Grouped 1x1 convolution.
    pub fn pointwise(
        &mut self,
        x: &Map,
        kernel: &Param<Tensor<2>>,
        bias: Option<&Param<Tensor<1>>>,
        groups: usize,
    ) -> Map {
        let (kernel, bias) = (kernel.val(), bias.map(Param::val));
        let Some(tape) = &mut self.tape else {
            return Map::Tensor(generic::pointwise(
                x.tensor(),
                &kernel,
                bias.as_ref(),
                groups,
            ));
        };
        let [inputs, height, width, batch] = x.dims();
        let outputs = kernel.dims()[0];
        let shape = Product {
            inputs,
            outputs,
            groups,
            columns: height * width * batch,
        };
        let (w, bias) = (
            operand(tape, &kernel),
            bias.map(|bias| operand(tape, &bias)),
        );
        Map::Tape(
            tape.pointwise(x.id(), w, bias, shape),
            [outputs, height, width, batch],
        )
    }

    /// Depthwise convolution with "same" padding.
    pub fn depthwise(
        &mut self,
        x: &Map,
        kernel: &Param<Tensor<3>>,
        bias: Option<&Param<Tensor<1>>>,
        stride: usize,
        dilation: usize,
    ) -> Map {
        let (weight, bias) = (kernel.val(), bias.map(Param::val));
        let Some(tape) = &mut self.tape else {
            let y = generic::depthwise(x.tensor(), &weight, bias.as_ref(), stride, dilation);
            return Map::Tensor(y);
        };
        let [channels, height, width, batch] = x.dims();
        let kernel = weight.dims()[1];
        let axis = |input| Axis {
            input,
            kernel,
            stride,
            dilation,
        };
        let shape = Depthwise {
            channels,
            rows: axis(height),
            cols: axis(width),
            batch,
        };
        let (w, bias) = (
            operand(tape, &weight),
            bias.map(|bias| operand(tape, &bias)),
        );
        let dims = [channels, shape.rows.output(), shape.cols.output(), batch];
        Map::Tape(tape.depthwise(x.id(), w, bias, shape), dims)
    }

    /// Ungrouped convolution with "same" padding and a stride per axis.
    pub fn dense_conv(
        &mut self,
        x: &Map,
        kernel: &Param<Tensor<4>>,
        bias: &Param<Tensor<1>>,
        stride: [usize; 2],
    ) -> Map {
        let (weight, bias) = (kernel.val(), bias.val());
        let Some(tape) = &mut self.tape else {
            return Map::Tensor(generic::dense_conv(x.tensor(), &weight, &bias, stride));
        };
        let [inputs, height, width, batch] = x.dims();
        let [outputs, _, kh, kw] = weight.dims();
        let axis = |input, kernel, stride| Axis {
            input,
            kernel,
            stride,
            dilation: 1,
        };
        let (rows, cols) = (axis(height, kh, stride[0]), axis(width, kw, stride[1]));
        let shape = Dense {
            inputs,
            outputs,
            rows,
            cols,
            batch,
        };
        let (w, bias) = (operand(tape, &weight), operand(tape, &bias));
        let dims = [outputs, rows.output(), cols.output(), batch];
        Map::Tape(tape.dense(x.id(), w, bias, shape), dims)
    }

    /// GroupNorm, with or without a following ReLU.
    pub fn group_norm(
        &mut self,
        x: &Map,
        gamma: &Param<Tensor<1>>,
        beta: &Param<Tensor<1>>,
        groups: usize,
        relu: bool,
    ) -> Map {
        let (gamma, beta) = (gamma.val(), beta.val());
        let Some(tape) = &mut self.tape else {
            let y = generic::group_norm(x.tensor(), &gamma, &beta, groups);
            return Map::Tensor(if relu {
                generic::activate(y, Activation::Relu)
            } else {
                y
            });
        };
        let [channels, height, width, batch] = x.dims();
        let shape = GroupNorm {
            channels,
            groups,
            pixels: height * width,
            batch,
            epsilon: 1e-5,
            relu,
        };
        let (gamma, beta) = (operand(tape, &gamma), operand(tape, &beta));
        Map::Tape(tape.group_norm(x.id(), gamma, beta, shape), x.dims())
    }

    /// BatchNorm from given moments, or from the batch's own; only in a generic pass.
    pub fn batch_norm(
        &mut self,
        x: &Map,
        gamma: &Param<Tensor<1>>,
        beta: &Param<Tensor<1>>,
        moments: Option<(&Param<Tensor<1>>, &Param<Tensor<1>>)>,
        relu: bool,
    ) -> Map {
        let moments = moments.map(|(mean, variance)| (mean.val(), variance.val()));
        let moments = moments.as_ref().map(|(mean, variance)| (mean, variance));
        let y = generic::batch_norm(x.tensor(), &gamma.val(), &beta.val(), moments);
        Map::Tensor(if relu {
            generic::activate(y, Activation::Relu)
        } else {
            y
        })
    }

    /// Concatenation along the channels, shuffled in 8 groups: `out[j * 8 + g] = in[g * (n / 8) + j]`.
    pub fn shuffle_concat(&mut self, maps: &[&Map]) -> Map {
        match &mut self.tape {
            Some(tape) => join(tape, maps, true),
            None => {
                let maps: Vec<&Tensor<4>> = maps.iter().map(|map| map.tensor()).collect();
                Map::Tensor(generic::shuffle_concat(&maps))
            }
        }
    }

    /// Concatenation along the channels.
    pub fn concat(&mut self, maps: &[&Map]) -> Map {
        match &mut self.tape {
            Some(tape) => join(tape, maps, false),
            None => Map::Tensor(Tensor::cat(
                maps.iter().map(|map| map.tensor().clone()).collect(),
                0,
            )),
        }
    }

    /// Pixels 0, 2, 4, ... of both axes: what a 1x1 convolution with stride 2 reads.
    pub fn subsample(&mut self, x: &Map) -> Map {
        let Some(tape) = &mut self.tape else {
            return Map::Tensor(generic::subsample(x.tensor()));
        };
        let [channels, height, width, batch] = x.dims();
        let dims = [channels, height.div_ceil(2), width.div_ceil(2), batch];
        Map::Tape(tape.subsample(x.id(), height, width, batch), dims)
    }

    /// 3x3 maximum, stride 2, "same" padding with minus infinity.
    pub fn max_pool(&mut self, x: &Map) -> Map {
        let Some(tape) = &mut self.tape else {
            return Map::Tensor(generic::max_pool(x.tensor()));
        };
        let [channels, height, width, batch] = x.dims();
        let axis = |input| Axis {
            input,
            kernel: 3,
            stride: 2,
            dilation: 1,
        };
        let (rows, cols) = (axis(height), axis(width));
        let dims = [channels, rows.output(), cols.output(), batch];
        Map::Tape(tape.max_pool(x.id(), channels, rows, cols, batch), dims)
    }

    /// `activation(a + b)`.
    pub fn add_activate(&mut self, a: &Map, b: &Map, activation: Activation) -> Map {
        match &mut self.tape {
            Some(tape) => Map::Tape(tape.add_activate(a.id(), b.id(), activation), a.dims()),
            None => {
                let sum = a.tensor().clone() + b.tensor().clone();
                Map::Tensor(generic::activate(sum, activation))
            }
        }
    }

    /// A map times a learned scalar.
    pub fn scale(&mut self, x: &Map, scale: &Param<Tensor<1>>) -> Map {
        let scale = scale.val();
        match &mut self.tape {
            Some(tape) => {
                let scale = operand(tape, &scale);
                Map::Tape(tape.scale(x.id(), scale), x.dims())
            }
            None => Map::Tensor(x.tensor().clone() * scale.reshape([1, 1, 1, 1])),
        }
    }

    /// A vector of channels as a constant map.
    pub fn broadcast(
        &mut self,
        vector: &Param<Tensor<1>>,
        pixels: [usize; 2],
        batch: usize,
    ) -> Map {
        let vector = vector.val();
        let channels = vector.dims()[0];
        let dims = [channels, pixels[0], pixels[1], batch];
        match &mut self.tape {
            Some(tape) => {
                let vector = operand(tape, &vector);
                Map::Tape(tape.broadcast(vector, pixels[0] * pixels[1] * batch), dims)
            }
            None => Map::Tensor(vector.reshape([channels, 1, 1, 1]).expand(dims)),
        }
    }

    /// A map plus a learned vector of channels.
    pub fn add_vector(&mut self, x: &Map, vector: &Param<Tensor<1>>) -> Map {
        let vector = vector.val();
        let [channels, height, width, batch] = x.dims();
        match &mut self.tape {
            Some(tape) => {
                let vector = operand(tape, &vector);
                Map::Tape(
                    tape.add_vector(x.id(), vector, height * width * batch),
                    x.dims(),
                )
            }
            None => Map::Tensor(x.tensor().clone() + vector.reshape([channels, 1, 1, 1])),
        }
    }

    /// `max(x, 0)`.
    pub fn relu(&mut self, x: &Map) -> Map {
        match &mut self.tape {
            Some(tape) => Map::Tape(tape.relu(x.id()), x.dims()),
            None => Map::Tensor(generic::activate(x.tensor().clone(), Activation::Relu)),
        }
    }

    /// The same values with other dimensions.
    pub fn reshape(&mut self, x: &Map, dims: [usize; 4]) -> Map {
        match x {
            Map::Tape(id, _) => Map::Tape(*id, dims),
            Map::Tensor(tensor) => Map::Tensor(tensor.clone().reshape(dims)),
        }
    }

    /// A signal `[channels, 1, length, batch]`, averaged in time to a map of `side * side` pixels.
    pub fn resample(&mut self, x: &Map, side: usize) -> Map {
        let [channels, _, length, batch] = x.dims();
        match &mut self.tape {
            Some(tape) => {
                let y = tape.resample(x.id(), length, side * side, batch);
                Map::Tape(y, [channels, side, side, batch])
            }
            None => Map::Tensor(generic::resample(x.tensor(), side)),
        }
    }

    /// Nearest-neighbour upscaling of both axes.
    pub fn upscale(&mut self, x: &Map, factor: usize) -> Map {
        let [channels, height, width, batch] = x.dims();
        if factor == 1 {
            return x.clone();
        }
        match &mut self.tape {
            Some(tape) => {
                let y = tape.upscale(x.id(), width, batch, factor);
                Map::Tape(y, [channels, height * factor, width * factor, batch])
            }
            None => Map::Tensor(generic::upscale(x.tensor(), factor)),
        }
    }

    /// Two MACFusion units in series on both streams; `name` is for a test that watches.
    pub fn pcmfa(
        &mut self,
        x: [&Map; 2],
        units: [&UnitTensors; 2],
        formulas: Formulas,
        name: &str,
    ) -> [Map; 2] {
        let Some(tape) = &mut self.tape else {
            let first = generic::unit([x[0].tensor(), x[1].tensor()], units[0], formulas);
            for (i, map) in first.iter().enumerate() {
                let map = Map::Tensor(map.clone());
                self.watch(|| format!("{name}.unit1.out{}", i + 1), &map);
            }
            return generic::unit(first.each_ref(), units[1], formulas).map(Map::Tensor);
        };
        let [_, height, width, batch] = x[0].dims();
        let pixels = height * width;
        let pooled = x.map(|x| tape.pixel_mean(x.id(), None, pixels, batch));
        let mut ids = Vec::new();
        for unit in units {
            ids.extend(unit.psi.iter().map(|tensor| operand(tape, tensor)));
            ids.extend(unit.rest.iter().map(|tensor| operand(tape, tensor)));
        }
        let gates = tape.gates(pooled, ids, formulas, batch);
        #[cfg(test)]
        if let Some(seen) = &mut self.seen {
            for (i, gate) in tape.first_gates(gates).iter().enumerate() {
                let y =
                    crate::kernel::arrange::apply_gate(tape.get(x[i].id()), gate, pixels, batch);
                assert_eq!(batch, 1, "watched passes have one record");
                let channels = y.len() / pixels;
                let nhwc = (0..pixels).flat_map(|p| (0..channels).map(move |c| (c, p)));
                let values = nhwc.map(|(c, p)| f64::from(y[c * pixels + p])).collect();
                seen.insert(format!("{name}.unit1.out{}", i + 1), values);
            }
        }
        [0, 1].map(|i| {
            Map::Tape(
                tape.apply_gate(x[i].id(), gates, i, pixels, batch),
                x[i].dims(),
            )
        })
    }
}

fn join(tape: &mut Tape, maps: &[&Map], shuffle: bool) -> Map {
    let [_, height, width, batch] = maps[0].dims();
    let parts: Vec<(Id, usize)> = maps.iter().map(|map| (map.id(), map.dims()[0])).collect();
    let total = parts.iter().map(|&(_, channels)| channels).sum();
    Map::Tape(
        tape.concat(parts, height * width * batch, shuffle),
        [total, height, width, batch],
    )
}

fn operand<const D: usize>(tape: &mut Tape, tensor: &Tensor<D>) -> Id {
    // The pass runs on the tape because its input is on the CPU in single precision, and a network's
    // parameters are on the device and in the precision of its inputs.
    tape.operand(tensor)
        .expect("parameters live where the inputs do")
}

/// Mean over the pixels of the map times an optional mask: `[channels, batch]`.
pub(crate) fn pixel_mean(x: &Tensor<4>, mask: Option<&Tensor<4>>) -> Tensor<2> {
    let [channels, height, width, batch] = x.dims();
    let mut tape = Tape::default();
    let ids = tape.operand(x).zip(match mask {
        Some(mask) => tape.operand(mask).map(Some),
        None => Some(None),
    });
    match (ids, mask) {
        (Some((x, mask)), _) => {
            let y = tape.pixel_mean(x, mask, height * width, batch);
            tape.finish(y, [channels, batch])
        }
        (None, Some(mask)) => generic::pixel_mean(&(x.clone() * mask.clone())),
        (None, None) => generic::pixel_mean(x),
    }
}
