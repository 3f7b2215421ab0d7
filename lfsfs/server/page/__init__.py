"""The pages for people, at / and below /-/. They only show: nothing here changes anything."""
