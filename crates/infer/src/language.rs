//! Which language a text is in, for choosing the wording of a prompt.

use taiyi_corpus::schema::Language;

/// Chinese where at least a fifth of the letters are Han characters, else English.
///
/// Han characters say more each than Latin letters do, and Chinese clinical text is full of Latin names, so a fifth is a
/// Chinese text; an English one that quotes a Chinese name stays far below.
pub fn language_of(text: &str) -> Language {
    let (mut han, mut letters) = (0_usize, 0_usize);
    for c in text.chars() {
        let chinese = is_han(c);
        han += usize::from(chinese);
        letters += usize::from(chinese || c.is_alphabetic());
    }
    if han > 0 && han * 5 >= letters { Language::Zh } else { Language::En }
}

fn is_han(c: char) -> bool {
    matches!(c, '\u{3007}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_han_characters_decides() {
        for text in ["患者头痛三天。", "EGFR-TKI（gefitinib）治疗非小细胞肺癌", "行MRI检查", "\u{20000}"]
        {
            assert_eq!(language_of(text), Language::Zh, "{text}");
        }
        for text in
            ["", "120/80", "Shuanghuanglian (双黄连) is given orally to patients with fever.", "α-синуклеин"]
        {
            assert_eq!(language_of(text), Language::En, "{text}");
        }
    }
}
