"""Parts of tools that read images and write what they find on them."""
