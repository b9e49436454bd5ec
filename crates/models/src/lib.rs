//! Stems, fusion trunks and heads on Burn.
