//! The files a user names, as text: read all at once, and looked at again and again. A file in the middle of being written
//! is let be: a change counts once two looks saw the same.

use std::{
    fs, io,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::sync::mpsc;

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// One file as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    /// How the user calls it.
    pub(crate) name: String,
    /// Its content, or why there is none.
    pub(crate) content: Result<String, String>,
}

/// The files named on the command line.
#[derive(Debug)]
pub(crate) struct Files {
    paths: Vec<PathBuf>,
    /// Standard input can be read once.
    input: Option<Text>,
    applied: Vec<Text>,
}

impl Files {
    /// Reads them for the first time.
    pub(crate) fn open(paths: Vec<PathBuf>) -> Self {
        let input = paths.iter().any(|path| path.as_os_str() == "-").then(|| {
            let mut text = String::new();
            let content = io::stdin().read_to_string(&mut text).map(|_| text).map_err(|error| error.to_string());
            Text { name: "standard input".into(), content }
        });
        let mut files = Self { paths, input, applied: Vec::new() };
        files.applied = files.look();
        files
    }

    /// What they hold, as far as it was passed on.
    pub(crate) fn texts(&self) -> &[Text] {
        &self.applied
    }

    /// Passes on what they hold whenever it is something else, until nobody listens.
    pub(crate) async fn follow(mut self, changes: mpsc::Sender<Vec<Text>>) {
        loop {
            self.changed().await;
            if changes.send(self.applied.clone()).await.is_err() {
                return;
            }
        }
    }

    /// Waits until they hold something else.
    async fn changed(&mut self) {
        let mut seen = self.look();
        loop {
            tokio::time::sleep(LOOK).await;
            let now = self.look();
            if now == seen && now != self.applied {
                self.applied = now;
                return;
            }
            seen = now;
        }
    }

    fn look(&self) -> Vec<Text> {
        let mut texts = Vec::new();
        for path in &self.paths {
            match &self.input {
                Some(input) if path.as_os_str() == "-" => texts.push(input.clone()),
                _ if path.is_dir() => match listed(path) {
                    Ok(files) => texts.extend(files.iter().map(|file| read(file))),
                    Err(error) => {
                        texts.push(Text { name: path.display().to_string(), content: Err(error.to_string()) })
                    }
                },
                _ => texts.push(read(path)),
            }
        }
        texts
    }
}

fn listed(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_resource = path.extension().is_some_and(|ending| ["json", "yaml", "yml"].iter().any(|it| ending == *it));
        // names with a dot in front are those of editors at work
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_resource && !is_hidden && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Text {
    Text { name: path.display().to_string(), content: fs::read_to_string(path).map_err(|error| error.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_is_told_once_the_file_is_at_rest() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        fs::write(&file, "one").unwrap();
        fs::write(folder.path().join(".a.yaml.swp.yaml"), "x").unwrap();
        fs::write(folder.path().join("notes.txt"), "x").unwrap();
        let mut files = Files::open(vec![folder.path().to_owned()]);
        assert_eq!(files.texts().len(), 1);
        assert!(tokio::time::timeout(Duration::from_secs(5), files.changed()).await.is_err());

        // as an editor does: a new file in place of the old
        fs::write(folder.path().join("a.new"), "two").unwrap();
        fs::rename(folder.path().join("a.new"), &file).unwrap();
        files.changed().await;
        assert_eq!(files.texts()[0].content.as_deref(), Ok("two"));

        fs::write(folder.path().join("b.json"), "three").unwrap();
        files.changed().await;
        assert_eq!(files.texts().len(), 2);
    }

    #[test]
    fn a_file_that_is_not_there_says_so() {
        let files = Files::open(vec!["/nowhere/x.yaml".into()]);
        assert!(files.texts()[0].content.as_ref().is_err_and(|error| error.contains("No such file")));
    }
}
