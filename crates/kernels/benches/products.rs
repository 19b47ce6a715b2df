//! Speed of the matrix products: `cargo bench -p taiyi-kernels --bench products [-- FILTER]`.
//!
//! Prints the best and the median of several runs. With `TAIYI_THREADS=1` the clock is the processor time of the thread,
//! which other work on the machine disturbs less.

#![allow(clippy::print_stdout)]

mod measure;

use measure::{filter, report, values};
use taiyi_kernels::{
    Nf4, Precision, Weight, bf16, level, linear, linear_input_gradient, linear_weight_gradient, threads,
};

fn main() {
    let filter = filter();
    println!("{:?}, {} threads", level(), threads());
    let training =
        [(4096, 960, 320), (4096, 320, 320), (4096, 864, 320), (4096, 320, 864), (1024, 16384, 320)];
    let large = [(1024, 2048, 2048), (2048, 4096, 1024)];
    let low_rank = [(4096, 16, 320), (4096, 320, 16), (4096, 64, 896), (4096, 896, 64)];
    for precision in [Precision::F32, Precision::Bf16] {
        for (m, n, k) in training.into_iter().chain(large).chain(low_rank) {
            let shape = format!("{precision:?} m={m} n={n} k={k}");
            let name = |form: &str| format!("{form} {shape}");
            if !["linear", "input gradient", "weight gradient"]
                .iter()
                .any(|form| name(form).contains(&filter))
            {
                continue;
            }
            let (x, w, y) = (values(m * k), values(n * k), values(m * n));
            let (mut dx, mut dw, mut out) = (values(m * k), values(n * k), values(m * n));
            let flops = 2.0 * (m * n * k) as f64;
            report(&filter, &name("linear"), flops, "GFLOP/s", || {
                linear(precision, m, n, k, 1.0, &x, &Weight::F32(&w), 0.0, &mut out);
            });
            report(&filter, &name("input gradient"), flops, "GFLOP/s", || {
                linear_input_gradient(precision, m, n, k, 1.0, &y, &Weight::F32(&w), 0.0, &mut dx);
            });
            report(&filter, &name("weight gradient"), flops, "GFLOP/s", || {
                linear_weight_gradient(precision, m, n, k, 1.0, &y, &x, 1.0, &mut dw);
            });
        }
    }
    for (n, k) in [(320, 320), (864, 320), (16384, 320), (4864, 896), (151_936, 896)] {
        if !format!("decode n={n} k={k}").contains(&filter) {
            continue;
        }
        let w = values(n * k);
        let half: Vec<bf16> = w.iter().map(|&x| bf16::from_f32(x)).collect();
        let nf4 = Nf4::quantize(&w, n, k, true);
        for m in [1, 8] {
            let (x, mut y) = (values(m * k), values(m * n));
            let stored: [(&str, Weight, usize); 3] = [
                ("f32", Weight::F32(&w), 4 * n * k),
                ("bf16", Weight::Bf16(&half), 2 * n * k),
                ("nf4", Weight::Nf4(&nf4), nf4.bytes()),
            ];
            for (kind, weight, bytes) in stored {
                report(&filter, &format!("decode n={n} k={k} {kind} m={m}"), bytes as f64, "GB/s", || {
                    linear(Precision::Bf16, m, n, k, 1.0, &x, &weight, 0.0, &mut y);
                });
            }
        }
    }
}
