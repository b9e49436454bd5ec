//! The parts of EHPAL-Net as Burn modules. Field names are the parameter names (`ehf128.ehf2_1.emrc.a...`).

pub(crate) mod blocks;
pub(crate) mod init;
pub(crate) mod layers;
pub(crate) mod stages;
pub(crate) mod stems;
