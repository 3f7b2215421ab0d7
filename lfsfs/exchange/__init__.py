"""Adopting what other programs keep of Git LFS, and leaving to them again: git-lfs itself, GitLab, Gitea, giftless."""
