//! RCPPS and RSQRTPS: our own definition, within the manual's bound and with its special cases.

use super::super::float::EstimateOp;
use super::super::{Mxcsr, SimdOp, apply};

fn estimate(op: EstimateOp, lane: u32) -> u32 {
    let mut mxcsr = Mxcsr::RESET;
    let result = apply(SimdOp::Estimate(op), 0, lane.into(), 0, &mut mxcsr).expect("estimates raise nothing");
    assert_eq!(mxcsr, Mxcsr::RESET);
    result as u32
}

/// The manual's bound.
const BOUND: f64 = 1.5 / 4096.0;

#[test]
fn the_error_of_every_significand_is_within_the_bound() {
    for bits in (1.0_f32.to_bits()..4.0_f32.to_bits()).step_by(3) {
        let value = f64::from(f32::from_bits(bits));
        let rcp = f64::from(f32::from_bits(estimate(EstimateOp::Rcpss, bits)));
        assert!((rcp * value - 1.0).abs() <= BOUND, "1 / {value} is not {rcp}");
        let rsqrt = f64::from(f32::from_bits(estimate(EstimateOp::Rsqrtss, bits)));
        assert!((rsqrt * value.sqrt() - 1.0).abs() <= BOUND, "1 / sqrt {value} is not {rsqrt}");
    }
}

#[test]
fn the_error_at_every_exponent_is_within_the_bound() {
    for exponent in 1..=254_u32 {
        for fraction in [0, 1, 0x35_5555, 0x7F_FFFF] {
            let bits = exponent << 23 | fraction;
            let value = f64::from(f32::from_bits(bits));
            let rsqrt = f64::from(f32::from_bits(estimate(EstimateOp::Rsqrtss, bits)));
            assert!((rsqrt * value.sqrt() - 1.0).abs() <= BOUND, "1 / sqrt {value:e} is not {rsqrt:e}");
            if exponent <= 251 {
                let rcp = f64::from(f32::from_bits(estimate(EstimateOp::Rcpss, bits | 1 << 31)));
                assert!((rcp * value + 1.0).abs() <= BOUND, "1 / -{value:e} is not {rcp:e}");
            }
        }
    }
}

#[test]
fn special_values_are_the_manuals() {
    let minus = 1 << 31;
    let infinity = f32::INFINITY.to_bits();
    for (value, rcp, rsqrt) in [
        (0, infinity, infinity),
        (minus, minus | infinity, minus | infinity),
        // Denormals are zeros, whatever DAZ says.
        (0x7F_FFFF, infinity, infinity),
        (minus | 1, minus | infinity, minus | infinity),
        (infinity, 0, 0),
        (minus | infinity, minus, 0xFFC0_0000),
        (minus | 0x3F80_0000, minus | 0x3F80_0000, 0xFFC0_0000),
        (0x7F80_0001, 0x7FC0_0001, 0x7FC0_0001),
        (0xFFC0_1234, 0xFFC0_1234, 0xFFC0_1234),
    ] {
        assert_eq!(estimate(EstimateOp::Rcpss, value), rcp, "rcp of {value:#x}");
        assert_eq!(estimate(EstimateOp::Rsqrtss, value), rsqrt, "rsqrt of {value:#x}");
    }
    // Up to here a result may not be tiny, and from there on it must be: then it is a zero.
    let largest = estimate(EstimateOp::Rcpss, 252 << 23 | 0x7F_E800);
    assert!(f32::from_bits(largest).is_normal());
    assert_eq!(estimate(EstimateOp::Rcpss, 253 << 23 | 0x00_0C01), 0);
    assert_eq!(estimate(EstimateOp::Rcpss, minus | 254 << 23 | 0x7F_FFFF), minus);
}

#[test]
fn the_bits_are_fixed() {
    // A change of the formula is a change of the machine.
    for (value, rcp, rsqrt) in [
        (3.0_f32, 0x3EAA_A800, 0x3F13_D000),
        (10.0, 0x3DCC_D000, 0x3EA1_E800),
        (1.5, 0x3F2A_A800, 0x3F51_0800),
    ] {
        let got =
            (estimate(EstimateOp::Rcpss, value.to_bits()), estimate(EstimateOp::Rsqrtss, value.to_bits()));
        assert_eq!(got, (rcp, rsqrt), "of {value}: {:#x} {:#x}", got.0, got.1);
    }
}

#[test]
fn packed_estimates_every_lane_and_scalar_the_lowest() {
    let four = 0x4080_0000_u128;
    let source = four | four << 32 | four << 64 | four << 96;
    let quarter = 0x3E80_0000_u128;
    let mut mxcsr = Mxcsr::RESET;
    let packed = apply(SimdOp::Estimate(EstimateOp::Rcpps), 0, source, 0, &mut mxcsr);
    assert_eq!(packed, Ok(quarter | quarter << 32 | quarter << 64 | quarter << 96));
    let half = 0x3F00_0000_u128;
    let scalar = apply(SimdOp::Estimate(EstimateOp::Rsqrtss), u128::MAX, source, 0, &mut mxcsr);
    assert_eq!(scalar, Ok(u128::MAX << 32 | half));
}
