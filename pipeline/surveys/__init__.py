"""What only a survey knows: columns and ids, paths, file formats, mask bits, ready-made selections."""
