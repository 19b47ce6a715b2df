//! Comparison with bitsandbytes: files written by version 0.50.2 on a CPU, in `../shared/oracles/nf4` beside the repository.
//!
//! Keys with `_nearest` hold the result of exact nearest codes, which is what the CUDA kernels compute.

#![allow(clippy::print_stderr)]

use std::path::PathBuf;

use safetensors::{Dtype, SafeTensors};
use taiyi_kernels::{
    Absmax, AdamW, AdamW8bitState, DoubleAbsmax, FloatBytes, NF4_CODES, Nf4, Precision, Weight, adamw,
    adamw_8bit, bf16, linear, signed_dynamic_map, unsigned_dynamic_map,
};

/// The file's bytes, or nothing, with a word why, where the oracles are not beside the repository.
fn oracle(name: &str) -> Option<Vec<u8>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracles/nf4").join(name);
    match std::fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            eprintln!("skipped: {}: {error}", path.display());
            None
        }
    }
}

fn floats(file: &SafeTensors, name: &str) -> Vec<f32> {
    let view = file.tensor(name).unwrap();
    assert_eq!(view.dtype(), Dtype::F32, "{name}");
    view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn bytes(file: &SafeTensors, name: &str) -> Vec<u8> {
    let view = file.tensor(name).unwrap();
    assert_eq!(view.dtype(), Dtype::U8, "{name}");
    view.data().to_vec()
}

fn shape(file: &SafeTensors, name: &str) -> (usize, usize) {
    match *file.tensor(name).unwrap().shape() {
        [n] => (1, n),
        [rows, cols] => (rows, cols),
        ref other => panic!("{name}: {other:?}"),
    }
}

#[track_caller]
fn assert_near(what: &str, found: &[f32], expected: &[f32], relative: f32, absolute: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let limit = relative * expected.abs() + absolute;
        assert!((found - expected).abs() <= limit, "{what}: element {i} is {found}, expected {expected}");
    }
}

#[test]
fn code_books_are_equal_bit_by_bit() {
    let Some(data) = oracle("nf4.safetensors") else { return };
    let file = SafeTensors::deserialize(&data).unwrap();
    assert_eq!(floats(&file, "nf4_code_book"), NF4_CODES);
    assert_eq!(floats(&file, "dynamic_map_signed_256"), signed_dynamic_map());
    assert_eq!(floats(&file, "dynamic_map_unsigned_256"), unsigned_dynamic_map());
}

#[test]
fn quantised_matrices_are_equal_byte_by_byte() {
    let Some(data) = oracle("nf4.safetensors") else { return };
    let file = SafeTensors::deserialize(&data).unwrap();
    let cases: Vec<String> =
        file.names().iter().filter_map(|name| name.strip_suffix(".input")).map(str::to_owned).collect();
    assert_eq!(cases.len(), 7);
    for case in cases {
        let input = floats(&file, &format!("{case}.input"));
        let (rows, cols) = shape(&file, &format!("{case}.input"));

        let plain = Nf4::quantize(&input, rows, cols, false);
        assert_eq!(plain.codes(), bytes(&file, &format!("{case}.plain.packed")), "{case}");
        let Absmax::Plain(absmax) = plain.absmax() else { panic!("{case}: not plain") };
        assert_eq!(*absmax, floats(&file, &format!("{case}.plain.absmax")), "{case}");
        let mut dense = vec![0.0; rows * cols];
        plain.dequantize_into(&mut dense);
        assert_eq!(dense, floats(&file, &format!("{case}.plain.dequant_fp32")), "{case}");

        let double = Nf4::quantize(&input, rows, cols, true);
        assert_eq!(double.codes(), bytes(&file, &format!("{case}.dq.packed")), "{case}");
        let Absmax::Double(absmax) = double.absmax() else { panic!("{case}: not double") };
        assert_eq!(absmax.codes, bytes(&file, &format!("{case}.dq.absmax_q_nearest")), "{case}");
        let offset = floats(&file, &format!("{case}.dq.offset"));
        assert_near(&case, &[absmax.offset], &offset, 1e-7, 0.0);
        assert_near(
            &case,
            &absmax.nested_absmax,
            &floats(&file, &format!("{case}.dq.nested_absmax")),
            1e-6,
            0.0,
        );

        // The stored parts of bitsandbytes, whose scales differ in a few codes, give its values.
        let stored = DoubleAbsmax {
            codes: bytes(&file, &format!("{case}.dq.absmax_q")),
            nested_absmax: floats(&file, &format!("{case}.dq.nested_absmax")),
            offset: offset[0],
            map: Box::new(*signed_dynamic_map()),
        };
        let stored =
            Nf4::from_parts(rows, cols, bytes(&file, &format!("{case}.dq.packed")), Absmax::Double(stored))
                .unwrap();
        stored.dequantize_into(&mut dense);
        assert_near(&case, &dense, &floats(&file, &format!("{case}.dq.dequant_fp32")), 1e-6, 1e-30);
    }
}

#[test]
fn bf16_input_gives_the_bytes_of_bitsandbytes() {
    let Some(data) = oracle("nf4.safetensors") else { return };
    let file = SafeTensors::deserialize(&data).unwrap();
    for case in ["normal_128x256", "odd_37x53"] {
        let (rows, cols) = shape(&file, &format!("{case}.input"));
        let input: Vec<f32> =
            floats(&file, &format!("{case}.input")).into_iter().map(|x| bf16::from_f32(x).to_f32()).collect();
        // As it lies in a file.
        let stored: Vec<u8> = input.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
        let read = Nf4::quantize_bytes(FloatBytes::Bf16(&stored), Precision::F32, rows, cols, false);
        for found in [Nf4::quantize(&input, rows, cols, false), read] {
            assert_eq!(found.codes(), bytes(&file, &format!("{case}.bf16in.packed")), "{case}");
            let Absmax::Plain(absmax) = found.absmax() else { panic!("{case}: not plain") };
            assert_eq!(*absmax, floats(&file, &format!("{case}.bf16in.absmax")), "{case}");
        }
    }
}

#[test]
fn a_serialised_layer_gives_its_outputs() {
    let Some(data) = oracle("linear4bit_serialized.safetensors") else { return };
    let file = SafeTensors::deserialize(&data).unwrap();
    let (n, k, m) = (96, 128, 5);
    let state = String::from_utf8(bytes(&file, "weight.quant_state.bitsandbytes__nf4")).unwrap();
    let (_, rest) = state.split_once("\"nested_offset\": ").unwrap();
    let offset: f32 = rest.trim_end_matches('}').parse().unwrap();
    let map: [f32; 256] = floats(&file, "weight.nested_quant_map").try_into().unwrap();
    assert_eq!(map, *signed_dynamic_map());
    let absmax = DoubleAbsmax {
        codes: bytes(&file, "weight.absmax"),
        nested_absmax: floats(&file, "weight.nested_absmax"),
        offset,
        map: Box::new(map),
    };
    let weight = Nf4::from_parts(n, k, bytes(&file, "weight"), Absmax::Double(absmax)).unwrap();
    let ours = Nf4::quantize(&floats(&file, "_orig_weight"), n, k, true);
    assert_eq!(ours.codes(), weight.codes());

    let mut y: Vec<f32> = floats(&file, "bias").repeat(m);
    linear(Precision::F32, m, n, k, 1.0, &floats(&file, "_x"), &Weight::Nf4(&weight), 1.0, &mut y);
    assert_near("y", &y, &floats(&file, "_y_fp32"), 1e-5, 1e-5);
}

const OPTIONS: AdamW =
    AdamW { lr: 2e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, step: 1, gradient_scale: 1.0 };

#[test]
fn adamw_with_f32_states_equals_bitsandbytes() {
    let Some(data) = oracle("adamw8bit.safetensors") else { return };
    let file = SafeTensors::deserialize(&data).unwrap();
    for name in ["big", "odd", "small"] {
        let mut parameter = floats(&file, &format!("param0.{name}"));
        let (mut first, mut second) = (vec![0.0; parameter.len()], vec![0.0; parameter.len()]);
        for step in 1..=3 {
            let gradient = floats(&file, &format!("grad{step}.{name}"));
            adamw(&AdamW { step, ..OPTIONS }, &mut parameter, &gradient, &mut first, &mut second);
            if step == 1 {
                assert_near(
                    name,
                    &parameter,
                    &floats(&file, &format!("adamw32bit.step1.param.{name}")),
                    0.0,
                    1e-6,
                );
            }
        }
        assert_near(name, &parameter, &floats(&file, &format!("adamw32bit.step3.param.{name}")), 0.0, 1e-6);
        assert_near(name, &first, &floats(&file, &format!("adamw32bit.step3.{name}.state1")), 1e-6, 1e-7);
        assert_near(name, &second, &floats(&file, &format!("adamw32bit.step3.{name}.state2")), 1e-5, 1e-10);
    }
}

/// At most one in a thousand codes may be one level off: rounding at the boundary between two.
#[track_caller]
fn assert_codes(what: &str, found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let different = found.iter().zip(expected).filter(|(a, b)| a != b).count();
    assert!(different * 1_000 <= found.len(), "{what}: {different} of {} codes differ", found.len());
    assert!(found.iter().zip(expected).all(|(a, b)| a.abs_diff(*b) <= 1), "{what}: a code is two levels off");
}

#[test]
fn adamw_with_8_bit_states_equals_exact_nearest_codes() {
    let Some(data) = oracle("adamw8bit.safetensors") else { return };
    let file = SafeTensors::deserialize(&data).unwrap();
    for name in ["big", "odd", "wide"] {
        let mut parameter = floats(&file, &format!("param0.{name}"));
        let mut state = AdamW8bitState::new(parameter.len());
        for step in 1..=3 {
            // "wide" was stored for the first step only.
            if name == "wide" && step > 1 {
                break;
            }
            let gradient = floats(&file, &format!("grad{step}.{name}"));
            adamw_8bit(&AdamW { step, ..OPTIONS }, &mut parameter, &gradient, &mut state);
            if step == 2 {
                continue;
            }
            let key = |rest: &str| format!("adamw8bit_nearest.step{step}.{rest}");
            let what = format!("{name} step {step}");
            assert_near(&what, &parameter, &floats(&file, &key(&format!("param.{name}"))), 0.0, 1e-6);
            assert_near(
                &what,
                &state.first_absmax,
                &floats(&file, &key(&format!("{name}.absmax1"))),
                1e-6,
                0.0,
            );
            assert_near(
                &what,
                &state.second_absmax,
                &floats(&file, &key(&format!("{name}.absmax2"))),
                1e-6,
                0.0,
            );
            assert_codes(
                &format!("{what} first"),
                &state.first,
                &bytes(&file, &key(&format!("{name}.state1"))),
            );
            assert_codes(
                &format!("{what} second"),
                &state.second,
                &bytes(&file, &key(&format!("{name}.state2"))),
            );
        }
    }
}
