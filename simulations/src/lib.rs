//! Simulations, demonstrations and tools on one machine.
