//! What the folders inside a model's folder are: versions, folders with a meaning of their own, and strays.

/// Folders beside the versions that the server knows.
const KNOWN_FOLDERS: [&str; 3] = ["configs", "initial_state", "warmup"];

/// The folders of a model, by meaning.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    /// Version numbers, ascending.
    pub versions: Vec<u64>,
    /// One sentence for each folder that looks like nothing known.
    pub warnings: Vec<String>,
}

/// Classifies the names of the folders (not the files) directly inside a model's folder, in any order.
///
/// A version is a positive integer without leading zeros. Hidden folders and `__pycache__` are ignored
/// without a warning.
/// Source: Triton model repository, "Model Versions".
pub fn classify<'a>(folders: impl IntoIterator<Item = &'a str>) -> Layout {
    let mut folders: Vec<&str> = folders.into_iter().filter(|name| !has_other_meaning(name)).collect();
    folders.sort_unstable();
    let mut layout = Layout::default();
    for folder in folders {
        match version(folder) {
            Ok(version) => layout.versions.push(version),
            Err(reason) => layout.warnings.push(format!("ignore version directory '{folder}' which {reason}")),
        }
    }
    layout.versions.sort_unstable();
    layout
}

fn has_other_meaning(folder: &str) -> bool {
    KNOWN_FOLDERS.contains(&folder) || folder.starts_with('.') || folder == "__pycache__"
}

fn version(folder: &str) -> Result<u64, &'static str> {
    if folder.starts_with('0') {
        return Err("contains leading zeros in its directory name");
    }
    let is_number = folder.bytes().all(|byte| byte.is_ascii_digit());
    // configurations name versions in 63 bits
    match folder.parse::<i64>().map(u64::try_from) {
        Ok(Ok(version)) if is_number => Ok(version),
        _ => Err("fails to convert to integral number"),
    }
}

#[cfg(test)]
mod tests {
    use super::classify;

    #[track_caller]
    fn check(folders: &[&str], versions: &[u64], warnings: &[&str]) {
        let layout = classify(folders.iter().copied());
        assert_eq!(layout.versions, versions);
        assert_eq!(layout.warnings, warnings);
    }

    #[test]
    fn versions_are_sorted_by_number() {
        check(&["10", "2", "1", "9223372036854775807"], &[1, 2, 10, 9_223_372_036_854_775_807], &[]);
    }

    #[test]
    fn known_and_hidden_folders_are_no_versions_and_no_mistakes() {
        check(&["1", "warmup", "initial_state", "configs", ".git", "..data", "__pycache__"], &[1], &[]);
    }

    #[test]
    fn strays_are_named() {
        check(
            &["01", "0", "-1", "+3", "1a", "old", "9223372036854775808", "٣"],
            &[],
            &[
                "ignore version directory '+3' which fails to convert to integral number",
                "ignore version directory '-1' which fails to convert to integral number",
                "ignore version directory '0' which contains leading zeros in its directory name",
                "ignore version directory '01' which contains leading zeros in its directory name",
                "ignore version directory '1a' which fails to convert to integral number",
                "ignore version directory '9223372036854775808' which fails to convert to integral number",
                "ignore version directory 'old' which fails to convert to integral number",
                "ignore version directory '٣' which fails to convert to integral number",
            ],
        );
    }
}
