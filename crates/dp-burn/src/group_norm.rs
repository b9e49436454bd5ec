//! Group normalisation in the place of batch normalisation.

use burn::nn::{BatchNorm, GroupNorm, GroupNormConfig};
use burn::tensor::Device;

/// A group normalisation with the channels, epsilon, scale and shift of a batch normalisation, and
/// `gcd(32, channels)` groups (Wu and He, arXiv 1803.08494, use 32).
///
/// Running statistics are dropped. The module's type changes, so the field must be declared as [`GroupNorm`], and
/// an optimiser that was made for the old parameters must be made anew.
///
/// ```
/// use burn::nn::BatchNormConfig;
/// use burn::tensor::Device;
/// use dp_burn::group_norm_for;
///
/// let device = Device::flex();
/// let old = BatchNormConfig::new(48).init(&device);
/// assert_eq!(group_norm_for(&old, &device).num_groups, 16);
/// ```
#[must_use]
pub fn group_norm_for(layer: &BatchNorm, device: &Device) -> GroupNorm {
    let [channels] = layer.gamma.dims();
    let groups = greatest_common_divisor(32, channels).max(1);
    let mut norm = GroupNormConfig::new(groups, channels)
        .with_epsilon(layer.epsilon)
        .init(device);
    norm.gamma = Some(layer.gamma.clone());
    norm.beta = Some(layer.beta.clone());
    norm
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}
