//! Matrices in 4 bits as bitsandbytes serialises them and transformers keeps them in checkpoints. A matrix `X` of `n` elements
//! in `b = ⌈n / 64⌉` blocks is several tensors:
//!
//! | name | type and shape | content |
//! |---|---|---|
//! | `X` | U8 (⌈n/2⌉, 1) | two codes a byte; also stored as another type with the same bytes (`bnb_4bit_quant_storage`) |
//! | `X.absmax` | F32 (b), or U8 (b) | scales of the blocks, or their codes |
//! | `X.quant_map` | F32 (16) | the values of the codes |
//! | `X.nested_absmax` | F32 (⌈b/256⌉) | scales of the scales, with double quantisation |
//! | `X.nested_quant_map` | F32 (256) | the values of the codes of the scales, with double quantisation |
//! | `X.quant_state.bitsandbytes__nf4` | U8 | JSON: `quant_type`, `blocksize`, `dtype`, `shape`, `nested_blocksize`, `nested_dtype`, `nested_offset` |

use serde_json::{Value, json};
use taiyi_kernels::{Absmax, DoubleAbsmax, NF4_BLOCK, NF4_CODES, NF4_NESTED_BLOCK, Nf4};

use super::{ElementType, Entry, SafetensorsWriter, Weights};
use crate::error::Error;

const STATE: &str = ".quant_state.bitsandbytes__nf4";

/// Where the parts of a matrix lie that are not its codes.
pub(super) struct Stored {
    /// Shape of the matrix: rows, columns.
    pub(super) shape: Vec<usize>,
    absmax: Entry,
    nested: Option<Nested>,
}

struct Nested {
    absmax: Entry,
    map: Entry,
    offset: f32,
}

/// Finds the matrices in 4 bits among the tensors and takes their parts out of the list.
///
/// # Errors
/// When parts are missing or do not fit together, and for the formats of bitsandbytes that this program does not have.
pub(super) fn collect(weights: &mut Weights) -> Result<(), Error> {
    for name in weights.names() {
        for (ending, format) in
            [(".quant_state.bitsandbytes__fp4", "FP4"), (".SCB", "8-bit format (LLM.int8)")]
        {
            let Some(base) = name.strip_suffix(ending) else { continue };
            return Err(Error::malformed(
                &weights.path_of(name),
                format!("tensor `{base}`"),
                "f32, f16, bf16, or bitsandbytes' NF4",
                format!("bitsandbytes' {format}, which is not supported; start from the original weights"),
            ));
        }
    }
    let bases: Vec<String> =
        weights.names().filter_map(|name| name.strip_suffix(STATE).map(str::to_owned)).collect();
    for base in bases {
        let stored = Stored::find(weights, &base)?;
        for ending in [STATE, ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"] {
            weights.tensors.remove(&format!("{base}{ending}"));
        }
        weights.quantised.insert(base, stored);
    }
    Ok(())
}

impl Stored {
    fn find(weights: &Weights, base: &str) -> Result<Stored, Error> {
        let wrong = |part: &str, expected: String, found: String| {
            let name = format!("{base}{part}");
            Error::malformed(&weights.path_of(&name), format!("tensor `{name}`"), expected, found)
        };
        let part = |part: &str| -> Result<(Entry, usize), Error> {
            let name = format!("{base}{part}");
            let entry = weights.tensors.get(&name).ok_or_else(|| weights.missing(&name))?;
            Ok((entry.clone(), entry.shape.iter().product()))
        };
        let (state, _) = part(STATE)?;
        let state: Value = serde_json::from_slice(weights.view(&state).bytes)
            .map_err(|source| wrong(STATE, "JSON".to_owned(), source.to_string()))?;
        let field = |key: &str, expected: &Value| -> Result<(), Error> {
            let found = state.get(key).unwrap_or(&Value::Null);
            if found == expected {
                return Ok(());
            }
            Err(wrong(STATE, format!("`{key}`: {expected}"), found.to_string()))
        };
        field("quant_type", &json!("nf4"))?;
        field("blocksize", &json!(NF4_BLOCK))?;
        let shape = state.get("shape").and_then(Value::as_array);
        let shape: Option<Vec<usize>> = shape.filter(|shape| shape.len() == 2).and_then(|shape| {
            shape.iter().map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok())).collect()
        });
        let elements = shape.as_deref().and_then(|shape| shape[0].checked_mul(shape[1]));
        let (Some(shape), Some(elements)) = (shape, elements) else {
            let found = state.get("shape").unwrap_or(&Value::Null).to_string();
            return Err(wrong(STATE, "`shape`: rows and columns".to_owned(), found));
        };
        let blocks = elements.div_ceil(NF4_BLOCK);

        let (codes, _) = part("")?;
        let bytes = codes.end - codes.begin;
        if bytes != elements.div_ceil(2) {
            return Err(wrong(
                "",
                format!("{} bytes for shape {shape:?}", elements.div_ceil(2)),
                bytes.to_string(),
            ));
        }
        let expect = |name: &str, dtype: ElementType, count: usize| -> Result<Entry, Error> {
            let (entry, found) = part(name)?;
            if entry.dtype == dtype && found == count {
                return Ok(entry);
            }
            Err(wrong(name, format!("{count} of {dtype:?}"), format!("{found} of {:?}", entry.dtype)))
        };
        let map = expect(".quant_map", ElementType::F32, 16)?;
        let map = weights.view(&map).to_f32().unwrap_or_default();
        // The codes are constants of the format; a file with others would need other kernels.
        if !map.iter().zip(NF4_CODES).all(|(found, code)| (found - code).abs() <= 1e-6) {
            return Err(wrong(".quant_map", "the 16 values of NF4".to_owned(), "others".to_owned()));
        }
        let double = weights.contains(&format!("{base}.nested_absmax"));
        let nested = if double {
            field("nested_blocksize", &json!(NF4_NESTED_BLOCK))?;
            field("nested_dtype", &json!("float32"))?;
            let offset = state.get("nested_offset").and_then(Value::as_f64).map(|offset| offset as f32);
            let offset = offset.filter(|offset| offset.is_finite());
            let offset = offset.ok_or_else(|| {
                let found = state.get("nested_offset").unwrap_or(&Value::Null).to_string();
                wrong(STATE, "`nested_offset`: a number".to_owned(), found)
            })?;
            Some(Nested {
                absmax: expect(".nested_absmax", ElementType::F32, blocks.div_ceil(NF4_NESTED_BLOCK))?,
                map: expect(".nested_quant_map", ElementType::F32, 256)?,
                offset,
            })
        } else {
            None
        };
        let kind = if double { ElementType::U8 } else { ElementType::F32 };
        Ok(Stored { absmax: expect(".absmax", kind, blocks)?, shape, nested })
    }

    /// The matrix, its codes and scales copied out of the file.
    pub(super) fn read(&self, weights: &Weights, name: &str) -> Result<Nf4, Error> {
        let codes = weights.get(name)?.bytes.to_vec();
        let floats = |entry: &Entry| weights.view(entry).to_f32().unwrap_or_default();
        let absmax = match &self.nested {
            None => Absmax::Plain(floats(&self.absmax)),
            Some(nested) => {
                let mut map = Box::new([0.0; 256]);
                map.copy_from_slice(&floats(&nested.map));
                Absmax::Double(DoubleAbsmax {
                    codes: weights.view(&self.absmax).bytes.to_vec(),
                    nested_absmax: floats(&nested.absmax),
                    offset: nested.offset,
                    map,
                })
            }
        };
        Nf4::from_parts(self.shape[0], self.shape[1], codes, absmax)
            .map_err(Error::kernels(&weights.path_of(name)))
    }
}

/// Bytes kept for the JSON of a matrix: its numbers are not known before the matrix is quantised, but the header of the file,
/// which counts them, is written first. Blanks fill the rest.
const STATE_BYTES: usize = 256;

impl<'a> SafetensorsWriter<'a> {
    /// Adds a matrix `(rows, cols)` in 4 bits, doubly quantised, as bitsandbytes serialises it; `dtype` (F32, F16 or Bf16) is
    /// what bitsandbytes dequantises it to. `matrix` is called once, when its turn comes, and must give that shape.
    pub fn add_nf4(
        &mut self,
        name: &str,
        dtype: ElementType,
        [rows, cols]: [usize; 2],
        matrix: impl Fn() -> Nf4 + 'a,
    ) {
        let elements = rows * cols;
        let blocks = elements.div_ceil(NF4_BLOCK);
        let parts = [
            ("", ElementType::U8, vec![elements.div_ceil(2), 1]),
            (".absmax", ElementType::U8, vec![blocks]),
            (".nested_absmax", ElementType::F32, vec![blocks.div_ceil(NF4_NESTED_BLOCK)]),
            (".nested_quant_map", ElementType::F32, vec![256]),
            (".quant_map", ElementType::F32, vec![16]),
            (STATE, ElementType::U8, vec![STATE_BYTES]),
        ];
        let parts = parts.map(|(part, dtype, shape)| (format!("{name}{part}"), dtype, shape));
        self.add_bytes(parts.into(), move || {
            let matrix = matrix();
            let scales = match matrix.absmax() {
                Absmax::Double(scales) => scales.clone(),
                Absmax::Plain(scales) => DoubleAbsmax::quantize(scales),
            };
            let state = json!({
                "quant_type": "nf4", "blocksize": NF4_BLOCK, "dtype": torch_name(dtype), "shape": [matrix.rows(), matrix.cols()],
                "nested_blocksize": NF4_NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": scales.offset,
            });
            let mut state = state.to_string().into_bytes();
            state.resize(STATE_BYTES, b' ');
            vec![
                matrix.codes().to_vec(),
                scales.codes,
                little_endian(&scales.nested_absmax),
                little_endian(&scales.map[..]),
                little_endian(&NF4_CODES),
                state,
            ]
        });
    }
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// PyTorch's name of a floating-point type.
pub(crate) fn torch_name(dtype: ElementType) -> &'static str {
    match dtype {
        ElementType::F16 => "float16",
        ElementType::Bf16 => "bfloat16",
        _ => "float32",
    }
}

/// `quantization_config` for a `config.json` beside such weights. transformers makes every linear layer one of 4 bits except
/// the modules in `skipped` (output heads): all that is not stored in 4 bits has to be named there.
pub fn quantization_config(dtype: ElementType, skipped: &[&str]) -> Value {
    json!({
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "bnb_4bit_compute_dtype": torch_name(dtype),
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": true,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": skipped,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": true,
        "load_in_8bit": false,
        "quant_method": "bitsandbytes",
    })
}
