use super::*;
use crate::level::with_bf16_dot;
use crate::testing::{Random, assert_close, at_every_level};
use crate::threads::set_threads;

/// One kind of product, as `C (m, n)` over `k` of `A (m, k)` and `B (k, n)` with plain indexing.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Linear,
    InputGradient,
    WeightGradient,
}

const FORMS: [Form; 3] = [Form::Linear, Form::InputGradient, Form::WeightGradient];
const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

/// How a weight is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stored {
    F32,
    Bf16,
    Nf4,
}

struct Owned {
    dense: Vec<f32>,
    bf16: Vec<bf16>,
    nf4: Nf4,
    stored: Stored,
}

impl Owned {
    fn new(stored: Stored, rows: usize, cols: usize, random: &mut Random) -> Self {
        let mut dense = random.vector(rows * cols);
        let bf16: Vec<bf16> = dense.iter().map(|&x| bf16::from_f32(x)).collect();
        let nf4 = Nf4::quantize(&dense, rows, cols, true);
        match stored {
            Stored::F32 => {}
            Stored::Bf16 => dense = bf16.iter().map(|x| x.to_f32()).collect(),
            Stored::Nf4 => nf4.dequantize_into(&mut dense),
        }
        Self { dense, bf16, nf4, stored }
    }

    fn weight(&self) -> Weight<'_> {
        match self.stored {
            Stored::F32 => Weight::F32(&self.dense),
            Stored::Bf16 => Weight::Bf16(&self.bf16),
            Stored::Nf4 => Weight::Nf4(&self.nf4),
        }
    }
}

fn rounded(precision: Precision, x: f32) -> f64 {
    f64::from(match precision {
        Precision::F32 => x,
        Precision::Bf16 => bf16::from_f32(x).to_f32(),
    })
}

/// The product in f64, by its formula.
fn reference(
    form: Form,
    precision: Precision,
    (m, n, k): (usize, usize, usize),
    alpha: f32,
    a: &[f32],
    b: &[f32],
    beta: f32,
    c: &[f32],
) -> Vec<f64> {
    let a: Vec<f64> = a.iter().map(|&x| rounded(precision, x)).collect();
    let b: Vec<f64> = b.iter().map(|&x| rounded(precision, x)).collect();
    // Rows and columns of C, length of the sums, and the steps in A and B for one row, one column and one term.
    let (rows, cols, len, a_steps, b_steps) = match form {
        Form::Linear => (m, n, k, (k, 1), (k, 1)),
        Form::InputGradient => (m, k, n, (n, 1), (1, k)),
        Form::WeightGradient => (n, k, m, (1, n), (1, k)),
    };
    (0..rows * cols)
        .map(|at| {
            let (i, j) = (at / cols, at % cols);
            let sum: f64 =
                (0..len).map(|l| a[i * a_steps.0 + l * a_steps.1] * b[j * b_steps.0 + l * b_steps.1]).sum();
            let old = if beta == 0.0 { 0.0 } else { f64::from(beta) * f64::from(c[at]) };
            f64::from(alpha) * sum + old
        })
        .collect()
}

fn run(
    form: Form,
    precision: Precision,
    (m, n, k): (usize, usize, usize),
    alpha: f32,
    a: &[f32],
    b: &Owned,
    beta: f32,
    c: &mut [f32],
) {
    match form {
        Form::Linear => linear(precision, m, n, k, alpha, a, &b.weight(), beta, c),
        Form::InputGradient => linear_input_gradient(precision, m, n, k, alpha, a, &b.weight(), beta, c),
        Form::WeightGradient => linear_weight_gradient(precision, m, n, k, alpha, a, &b.dense, beta, c),
    }
}

fn sizes(form: Form, (m, n, k): (usize, usize, usize)) -> (usize, (usize, usize), usize) {
    match form {
        Form::Linear => (m * k, (n, k), m * n),
        Form::InputGradient => (m * n, (n, k), m * k),
        Form::WeightGradient => (m * n, (m, k), n * k),
    }
}

fn compare(
    form: Form,
    precision: Precision,
    stored: Stored,
    shape: (usize, usize, usize),
    random: &mut Random,
) {
    let (a_len, (b_rows, b_cols), c_len) = sizes(form, shape);
    let a = random.vector(a_len);
    let b = Owned::new(stored, b_rows, b_cols, random);
    let inner = match form {
        Form::Linear => shape.2,
        Form::InputGradient => shape.1,
        Form::WeightGradient => shape.0,
    };
    for (alpha, beta) in [(1.0, 0.0), (0.5, 1.0), (-1.5, 0.25)] {
        // What beta 0 must not read.
        let old = if beta == 0.0 { vec![f32::NAN; c_len] } else { random.vector(c_len) };
        let expected = reference(form, precision, shape, alpha, &a, &b.dense, beta, &old);
        at_every_level(|level| {
            for dot in [false, true] {
                let mut c = old.clone();
                with_bf16_dot(dot, || run(form, precision, shape, alpha, &a, &b, beta, &mut c));
                let what =
                    format!("{level:?} {dot} {form:?} {precision:?} {stored:?} {shape:?} {alpha} {beta}");
                assert_close(&what, &c, &expected, 2e-7 * (inner as f64 + 8.0));
            }
        });
    }
}

fn check_shapes(shapes: &[(usize, usize, usize)]) {
    let mut random = Random(7);
    for &shape in shapes {
        for form in FORMS {
            for precision in PRECISIONS {
                for stored in [Stored::F32, Stored::Bf16, Stored::Nf4] {
                    if form != Form::WeightGradient || stored == Stored::F32 {
                        compare(form, precision, stored, shape, &mut random);
                    }
                }
            }
        }
    }
}

#[test]
fn small_and_ragged_shapes_equal_the_formula() {
    check_shapes(&[
        (1, 1, 1),
        (2, 3, 5),
        (1, 64, 33),
        (15, 17, 31),
        (14, 32, 64),
        (3, 50, 129),
        (29, 8, 65),
        (3, 20, 192),
    ]);
}

#[test]
fn shapes_with_several_blocks_and_tasks_equal_the_formula() {
    check_shapes(&[(131, 40, 70), (37, 130, 700), (150, 33, 1301), (300, 200, 96), (37, 40, 704)]);
}

#[test]
fn random_shapes_equal_the_formula() {
    let mut random = Random(11);
    let shapes: Vec<_> =
        (0..12).map(|_| (1 + random.below(160), 1 + random.below(90), 1 + random.below(200))).collect();
    check_shapes(&shapes);
}

#[test]
fn many_columns_are_cut_into_chunks() {
    let mut random = Random(3);
    // Large enough that the shared panels hold only a part of the columns.
    compare(Form::Linear, Precision::F32, Stored::F32, (120, 3_400, 330), &mut random);
    compare(Form::WeightGradient, Precision::F32, Stored::F32, (700, 120, 1_800), &mut random);
}

#[test]
fn an_empty_sum_scales_the_output() {
    let mut y = vec![2.0; 6];
    linear(Precision::F32, 2, 3, 0, 1.0, &[], &Weight::F32(&[]), 0.5, &mut y);
    assert_eq!(y, [1.0; 6]);
    linear(Precision::F32, 2, 3, 0, 1.0, &[], &Weight::F32(&[]), 0.0, &mut y);
    assert_eq!(y, [0.0; 6]);
}

#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    let mut random = Random(5);
    let cases = [Stored::F32, Stored::Bf16, Stored::Nf4].map(|stored| (stored, 1_333));
    // Lines of whole blocks of NF4 take another way than others.
    for (stored, k) in cases.into_iter().chain([(Stored::Nf4, 704)]) {
        let n = 75;
        let w = Owned::new(stored, n, k, &mut random);
        let x = random.vector(257 * k);
        at_every_level(|level| {
            for dot in [false, true] {
                with_bf16_dot(dot, || {
                    for precision in PRECISIONS {
                        let mut one = vec![0.0; 257 * n];
                        for i in 0..257 {
                            let (x, y) = (&x[i * k..(i + 1) * k], &mut one[i * n..(i + 1) * n]);
                            linear(precision, 1, n, k, 1.0, x, &w.weight(), 0.0, y);
                        }
                        for m in [2, 3, 4, 5, 6, 7, 8, 9, 64, 113, 257] {
                            let mut together = vec![0.0; m * n];
                            linear(precision, m, n, k, 1.0, &x[..m * k], &w.weight(), 0.0, &mut together);
                            assert!(
                                together == one[..m * n],
                                "{level:?} {precision:?} {stored:?}: {m} rows differ from one"
                            );
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn the_number_of_threads_does_not_change_results() {
    let mut random = Random(9);
    let before = crate::threads::threads();
    for form in FORMS {
        for shape in [(200, 150, 170), (8, 500, 300)] {
            let (a_len, (b_rows, b_cols), c_len) = sizes(form, shape);
            let a = random.vector(a_len);
            let b = Owned::new(Stored::F32, b_rows, b_cols, &mut random);
            let results = [1, 2, 5].map(|count| {
                set_threads(count);
                let mut c = vec![0.0; c_len];
                run(form, Precision::Bf16, shape, 1.0, &a, &b, 0.0, &mut c);
                c
            });
            set_threads(before);
            assert!(results[0] == results[1] && results[0] == results[2], "{form:?} {shape:?}");
        }
    }
}

#[test]
fn a_nan_in_the_input_reaches_the_output() {
    at_every_level(|level| {
        for precision in PRECISIONS {
            let x = [1.0, f32::from_bits(0x7fff_ffff), 1.0];
            let mut y = [0.0; 2];
            linear(precision, 1, 2, 3, 1.0, &x, &Weight::F32(&[1.0; 6]), 0.0, &mut y);
            assert!(y.iter().all(|y| y.is_nan()), "{level:?} {precision:?}: {y:?}");
        }
    });
}

#[test]
#[should_panic(expected = "linear: w has 5 elements, its shape says 6")]
fn a_wrong_length_is_named() {
    linear(Precision::F32, 1, 2, 3, 1.0, &[0.0; 3], &Weight::F32(&[0.0; 5]), 0.0, &mut [0.0; 2]);
}
