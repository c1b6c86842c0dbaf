#!/bin/sh
# Proposes the rendered Formula/openllm.rb of VERSION to main: a branch, a commit, a pull request.
# Run by .github/workflows/release.yml, whose GH_TOKEN may do that and no more.
set -eu
version=${1:?"usage: propose_formula.sh VERSION"}
branch="formula-$version"

gh auth setup-git
git config user.name "github-actions[bot]"
git config user.email "41898282+github-actions[bot]@users.noreply.github.com"
git switch --quiet --create "$branch"
git add Formula/openllm.rb
if git diff --cached --quiet; then
  echo "Formula/openllm.rb is that of $version already."
  exit 0
fi
git commit --quiet --message "Homebrew formula of $version"
git push --quiet --force origin "$branch"
gh pr create --base main --head "$branch" --title "Homebrew formula of $version" \
  --body "Rendered from the archives of the release by tools/formula.py."
