//! The software vCPU.

pub(crate) mod simd;
