//! Speed of attention and the elementwise operations: `cargo bench -p taiyi-kernels --bench operations [-- FILTER]`.
//!
//! With `TAIYI_THREADS=1` the clock is the processor time of the thread.

#![allow(clippy::print_stdout)]

mod measure;

use measure::{filter, report, values};
use taiyi_kernels::{
    AdamW, AdamW8bitState, AttentionShape, Dropout, FloatBytes, Nf4, Precision, RopeShape, RopeStyle, adamw,
    adamw_8bit, add, attention, attention_gradient, bf16, bf16_to_f32, cross_entropy_gradient, dropout,
    f32_to_bf16, level, rms_norm, rms_norm_gradient, rope, swiglu, swiglu_gradient, threads,
};

fn main() {
    let filter = &filter();
    println!("{:?}, {} threads", level(), threads());
    for (sequences, length, heads, kv_heads, head_dim) in
        [(16, 256, 5, 5, 64), (4, 1024, 5, 1, 64), (4, 1024, 14, 2, 64)]
    {
        let shape =
            AttentionShape { heads, kv_heads, head_dim, causal: true, scale: 0.125, alibi_slopes: None };
        let cu: Vec<u32> = (0..=sequences).map(|s| (s * length) as u32).collect();
        let tokens = sequences * length;
        let (q, k, v) = (
            values(tokens * heads * head_dim),
            values(tokens * kv_heads * head_dim),
            values(tokens * kv_heads * head_dim),
        );
        let (mut out, mut lse) = (q.clone(), vec![0.0; heads * tokens]);
        let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
        let flops = (2 * sequences * length * length * heads * head_dim) as f64;
        let name = format!("{sequences} x {length} heads={heads}/{kv_heads}");
        for precision in [Precision::F32, Precision::Bf16] {
            report(filter, &format!("attention {precision:?} {name}"), flops, "GFLOP/s", || {
                attention(precision, &shape, &cu, &cu, &q, &k, &v, &mut out, &mut lse);
            });
            report(
                filter,
                &format!("attention gradient {precision:?} {name}"),
                2.5 * flops,
                "GFLOP/s",
                || {
                    attention_gradient(
                        precision, &shape, &cu, &cu, &q, &k, &v, &out, &lse, &q, &mut dq, &mut dk, &mut dv,
                    );
                },
            );
        }
    }
    let one = AttentionShape {
        heads: 14,
        kv_heads: 2,
        head_dim: 64,
        causal: true,
        scale: 0.125,
        alibi_slopes: None,
    };
    let (q, k) = (values(14 * 64), values(1000 * 2 * 64));
    let (mut out, mut lse) = (q.clone(), vec![0.0; 14]);
    report(filter, "attention decode 1 x 1000 heads=14/2", (k.len() * 8) as f64, "GB/s", || {
        attention(Precision::Bf16, &one, &[0, 1], &[0, 1000], &q, &k, &k, &mut out, &mut lse);
    });

    let (tokens, dim, hidden) = (4096, 320, 864);
    let (x, y, w) = (values(tokens * dim), values(tokens * dim), values(dim));
    let (mut z, mut r, mut dw) = (x.clone(), vec![0.0; tokens], vec![0.0; dim]);
    let bytes = |floats: usize| 4.0 * floats as f64;
    let n = tokens * dim;
    report(filter, "rms_norm", bytes(2 * n), "GB/s", || rms_norm(1e-6, &x, &w, &mut z, &mut r));
    report(filter, "rms_norm_gradient", bytes(3 * n), "GB/s", || {
        rms_norm_gradient(&x, &w, &r, &y, 1.0, &mut z, Some(&mut dw));
    });
    report(filter, "add", bytes(3 * n), "GB/s", || add(&x, &mut z));
    let options = Dropout { probability: 0.05, seed: 1, stream: 2, first: 0 };
    report(filter, "dropout", bytes(2 * n), "GB/s", || dropout(&options, &x, &mut z));
    let rotary = RopeShape { style: RopeStyle::HalfSplit, heads: 5, head_dim: 64, offset: 0, rotary_dim: 64 };
    let positions: Vec<u32> = (0..tokens as u32).collect();
    let (cos, sin) = (values(tokens * 32), values(tokens * 32));
    for style in [RopeStyle::HalfSplit, RopeStyle::Interleaved] {
        report(filter, &format!("rope {style:?}"), bytes(2 * n), "GB/s", || {
            rope(&RopeShape { style, ..rotary }, &positions, &cos, &sin, false, &mut z);
        });
    }
    let mut half = vec![bf16::ZERO; n];
    report(filter, "f32_to_bf16", 1.5 * bytes(n), "GB/s", || f32_to_bf16(&x, &mut half));
    report(filter, "bf16_to_f32", 1.5 * bytes(n), "GB/s", || bf16_to_f32(&half, &mut z));

    let n = tokens * hidden;
    let (gate, up) = (values(n), values(n));
    let (mut a, mut b) = (gate.clone(), gate.clone());
    report(filter, "swiglu", bytes(3 * n), "GB/s", || swiglu(&gate, &up, &mut a));
    report(filter, "swiglu_gradient", bytes(5 * n), "GB/s", || {
        swiglu_gradient(&gate, &up, &up, &mut a, &mut b)
    });

    let (rows, vocabulary) = (512, 16_384);
    let labels: Vec<i32> = (0..rows).collect();
    let mut logits = values(512 * vocabulary);
    report(filter, "cross_entropy_gradient", bytes(2 * logits.len()), "GB/s", || {
        cross_entropy_gradient(vocabulary, &labels, 1.0, &mut logits);
    });

    let n = 4_000_000;
    let (mut p, g, mut m, mut v) = (values(n), values(n), vec![0.0; n], vec![0.0; n]);
    let step = AdamW {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        step: 10,
        gradient_scale: 1.0,
    };
    report(filter, "adamw", bytes(7 * n), "GB/s", || adamw(&step, &mut p, &g, &mut m, &mut v));
    let mut state = AdamW8bitState::new(n);
    report(filter, "adamw_8bit", n as f64, "G elements/s", || adamw_8bit(&step, &mut p, &g, &mut state));

    // A matrix of a 7B model as it lies in a file, at an odd address; the output is new memory each time, as in loading.
    let (rows, cols) = (11_008, 4096);
    let stored: Vec<u8> = [0]
        .into_iter()
        .chain(values(rows * cols).iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()))
        .collect();
    let stored = &stored[1..];
    let n = rows * cols;
    report(filter, "nf4 quantize (of bf16 bytes)", (2 * n) as f64, "GB/s of input", || {
        std::hint::black_box(Nf4::quantize_bytes(
            FloatBytes::Bf16(stored),
            Precision::Bf16,
            rows,
            cols,
            true,
        ));
    });
    report(filter, "nf4 quantize (of f16 bytes)", (2 * n) as f64, "GB/s of input", || {
        std::hint::black_box(Nf4::quantize_bytes(FloatBytes::F16(stored), Precision::Bf16, rows, cols, true));
    });
    let (mut wide, mut half) = (vec![0.0; n], vec![bf16::ZERO; n]);
    report(filter, "read bf16 bytes to f32", (6 * n) as f64, "GB/s", || {
        FloatBytes::Bf16(stored).to_f32(&mut wide)
    });
    report(filter, "read f16 bytes to f32", (6 * n) as f64, "GB/s", || {
        FloatBytes::F16(stored).to_f32(&mut wide)
    });
    report(filter, "read bf16 bytes to bf16", (4 * n) as f64, "GB/s", || {
        FloatBytes::Bf16(stored).to_bf16(&mut half)
    });
    report(filter, "read f16 bytes to bf16", (4 * n) as f64, "GB/s", || {
        FloatBytes::F16(stored).to_bf16(&mut half)
    });

    let nf4 = Nf4::quantize(&wide, rows, cols, true);
    report(filter, "nf4 quantize (of f32)", n as f64, "G elements/s", || {
        std::hint::black_box(Nf4::quantize(&wide, rows, cols, true));
    });
    report(filter, "nf4 dequantize", n as f64, "G elements/s", || nf4.dequantize_into(&mut wide));
}
